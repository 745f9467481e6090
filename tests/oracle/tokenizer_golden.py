"""Makes tests/io_tokenizer/golden/*.json: small byte-pair tokenizers and what the `tokenizers` library does with them.

Each file holds a complete tokenizer.json with the configuration of one model family, trained on the text below, and
variants: RFC 7386 merge patches of it that exercise one component each. For every text the ids are recorded plainly,
with the post-processor applied ("special") and with special tokens taken as text ("plain", only where they differ),
and the decoded text with and without special tokens (only where it differs from the text).
Usage: python3 tokenizer_golden.py      (needs the Python package tokenizers; written with 0.23.3)
       python3 tokenizer_golden.py TOKENIZER_JSON TEXT... GOLDEN     the same for a real tokenizer and the lines of text
                                       files, for the test that SLIDESPARSE_TOKENIZER_GOLDEN=GOLDEN switches on
"""

import json
import pathlib
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TARGET = pathlib.Path(__file__).resolve().parent.parent / "io_tokenizer" / "golden"

TRAINING = """
A tokenizer cuts text into pieces that a model has seen before. The pieces are called tokens, and each of them has a
number. Common words are one token; rare words are several. When the tokenizer was trained, it started with single
bytes and joined the most frequent pair again and again, until the vocabulary was as large as it was asked to be.
The order of the joins is the order in which they are made when new text is read, so the same text always gives the
same numbers. That's why we're careful: it'll break if you've changed one rule, and I'd rather know. They're not the
same; we'd say they aren't. You'll see that the models don't mind. I'm sure she's right. He said: "It doesn't matter."
In 1984, 2001 and 2024 the prices were 1,299.95 and 3.14159 dollars, or 100 000 000 in all; 12345678 is a number too.
The river ran through the valley, past the old mill and the quiet houses, and the children watched the water go by.
In the morning the market opened, and the farmers brought bread, cheese, apples, honey and flowers from the hills.
for (int i = 0; i < n; ++i) {
    sum += values[i] * weights[i];
    if (sum > limit) return std::string("too large");
}
def encode(self, text):
    return [self.vocab[token] for token in self.split(text)]
\tSELECT name, price FROM items WHERE price > 10 ORDER BY name;\r\n
<html><body><p class="note">Hello, world! &amp; good-bye</p></body></html>
Der Fluss fließt durch das Tal, die Kinder hören das Wasser. Schöne Grüße aus Köln! Überall müssen Bücher stehen.
L'été, les élèves étudient près de la forêt. Ça va très bien, n'est-ce pas ? Où êtes-vous allés hier, mes amis ?
El niño comió una manzana mañana por la mañana. ¿Cómo estás? ¡Qué día más bonito! El señor y la señora están aquí.
Река течёт через долину, и дети смотрят на воду. Утром открылся рынок, и люди принесли хлеб, сыр и мёд.
河流穿过山谷,孩子们看着水流过。早上市场开了,农民们带来了面包和水果。你好,世界!
川は谷を流れ、子供たちは水を見ていた。こんにちは、世界!ありがとうございます。
강은 계곡을 흐르고 아이들은 물을 바라보았다. 안녕하세요, 세계! 감사합니다.
النهر يجري في الوادي والأطفال ينظرون إلى الماء. مرحبا بالعالم! هنا السوق.
הנהר זורם בעמק והילדים מביטים במים. שלום עולם! בבוקר נפתח השוק.
नदी घाटी से बहती है और बच्चे पानी देखते हैं। नमस्ते दुनिया! धन्यवाद।
แม่น้ำไหลผ่านหุบเขา เด็กๆ มองดูน้ำ สวัสดีชาวโลก
Ο ποταμός κυλά στην κοιλάδα και τα παιδιά κοιτούν το νερό. Γεια σου κόσμε!
😀 😀 👍 👍🏽 👨‍👩‍👧 ❤️ 🎉
"""

TEXTS = [
    "", " ", "  ", "a", "Hello, world!", "The river ran through the valley.", " leading and trailing ", "I'm sure they'll say we'd've",
    "IT'S THEY'RE 'Tis 'S 'ſ 'LL", "1 12 123 1234 12345 3.14159 1,299.95 ²³ ½ Ⅷ ٣٤ १२ 一二", "x1y22z333", "   three   spaces   ",
    "\t\ttabs\tand \t mixed\t ", "line\nline\n\nline\n\n\n   \n end\n", "dos\r\nline\r\n\r\n\rend\r", " \n \r\n \t\n", "\u00a0no-break\u00a0\u3000wide\u2003em\u2028ls\u2029ps\u0085nel\u180emvs\u200bzwsp",
    "fn(x)[0] += {\"k\": \"v\"}; // comment!!! ??? --> <=> ===", "def f(self):\n    return [self.vocab[t] for t in text]\n",
    "snake_case camelCase PascalCase kebab-case UPPER_CASE __init__", "https://example.org/a/b?c=d&e=f#g user@host.example",
    "e\u0301 é A\u030a Å \u212b \u2126 Ω q\u0307\u0323 q\u0323\u0307 \u1e9b\u0323", "\u1112\u1161\u11ab 한 \u1100\u1161 가", "ﬁ ﬀ ① ² ㌀ Ａ", "a\u0300\u0301\u0302\u0303 \u0300alone",
    "👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 👍🏽 ❤️ 😀😀", "\U0001f9d1\u200d\U0001f4bb x\ufe0f", "Привет, мир! Ёлка ёж", "你好,世界。今天天气很好", "こんにちは世界 カタカナ ｶﾀｶﾅ",
    "안녕하세요 세계", "مرحبا بالعالم ١٢٣", "שלום עולם", "\u202eright to left\u202c \u200f\u200e", "नमस्ते दुनिया क़", "สวัสดีชาวโลก", "Γεια σου Κόσμε ς Σ", "Tiếng Việt ấ ắ",
    "ქართული հայերեն አማርኛ ᏣᎳᎩ ᚠᚢᚦ 𐍈 𝔘𝔫𝔦 𐐷 ꙮ", "\u1c89 \u31350 \U00010d40\U00010d41 \U0001e5f1 \U00031350\U000323af", "\x00\x01\x02\x03\x04\x05\x06\x07\x08\x0b\x0c\x0e\x1b[31m\x7f", "\ufeffBOM \ufffd \uffff \U0010ffff \ue000",
    "<|begin|>", "a<|begin|>b", "<|begin|><|end|>", "text <|end|> text<|end|>\n<|begin|>", "<|begin", "<|beginn|>", "<|begin|<|begin|>|>", "<|END|> <| end |>",
    "<think>why</think> <think> </think>", "word wordy myword a word.", "STOP  STOP\n STOP", "stripped   <l>  and <r>   here<r>  <l>", "éclair e\u0301clair n\u00e9e", "an ANGLE Å A\u030a \u212b",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "thethethethethethethethethethethethethethethethethethethethethethethethethethethethethethe", "0" * 70, " " * 70, "\n" * 40, "!" * 50, "\u4e16" * 30, "-" * 20 + "=" * 20,
    "ab\u0000cd", "\r", "\n", "\t", "'", "''s", "' s", "don't", "DON'T", "don\u2019t",
]
# For variants: a few texts each, many for those whose component meets every kind of character.
SOME = [t for t in TEXTS if len(t) < 60]
WIDE = {"regex word class", "NFKD and replace", "unknown token", "normalised"}
FEW = [t for t in SOME if any(c in t for c in "123wW<")][:20] + ["", " ", "e\u0301", "\u4e16 \u4e16", "''s"]

GPT4 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SPECIAL = ["<|begin|>", "<|end|>"]


def train(pre_tokenizer, normalizer, alphabet, size=900):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=size, min_frequency=2, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TRAINING.splitlines(True), trainer)
    return tokenizer


def split(pattern):
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def llama3():
    tokenizer = train(split(GPT4 % r"\p{N}{1,3}"), None, pre_tokenizers.ByteLevel.alphabet())
    # Words that merges cannot reach: only ignore_merges finds them.
    base = json.loads(tokenizer.to_str())
    for word in ("valley", "\u0120river", "\u0120through"):
        base["model"]["vocab"].setdefault(word, len(base["model"]["vocab"]))
    base["model"]["ignore_merges"] = True
    tokenizer = Tokenizer.from_str(json.dumps(base))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in SPECIAL])
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", tokenizer.token_to_id("<|begin|>"))])])
    base = json.loads(tokenizer.to_str())
    base["model"]["merges"] = [" ".join(pair) for pair in base["model"]["merges"]]
    begin, end = (tokenizer.token_to_id(t) for t in SPECIAL)
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}

    def cut(pattern, behavior, invert=False):
        return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}, level]}}
    variants = {f"split {b} invert={i}": cut({"Regex": r"\s|[aeiou]"}, b, i) for i in (False, True)
                for b in ("Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous")}
    variants |= {
        "split string": cut({"String": " ."}, "MergedWithPrevious"),
        "split string of special characters": cut({"String": "[0]"}, "Isolated"),
        "regex word class": cut({"Regex": r"\w+|\h|^.|\d$|[\w.]+@"}, "Isolated"),
        "regex with empty matches": cut({"Regex": r"[0-9]*"}, "Isolated"),
        "regex look-behind": cut({"Regex": r"(?<=[a-z])(?=[A-Z])|(?<!\S)'"}, "Isolated"),
        "regex script and code points": cut({"Regex": r"\p{Han}+|\p{Hiragana}+|[\u0400-\u04ff]+|\P{L}"}, "Isolated"),
        "digits in runs": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": False}, level]}},
        "digits one by one": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, level]}},
        "prefix space": {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}},
        "prefix space behind split": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "[,.]"}, "behavior": "Removed", "invert": False}, level | {"add_prefix_space": True}]}},
        "nested sequence": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": False}]}, {"type": "Sequence", "pretokenizers": [level]}]}},
        "merges used": {"model": {"ignore_merges": False}},
        "template on both sides": {"post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "b", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "e", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"b": {"id": "b", "ids": [begin, end], "tokens": SPECIAL}, "e": {"id": "e", "ids": [end], "tokens": ["<|end|>"]}}}},
        "no decoder": {"decoder": None},
    }
    return base, variants


def qwen():
    tokenizer = train(split(GPT4 % r"\p{N}"), normalizers.NFC(), pre_tokenizers.ByteLevel.alphabet())
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in ("<think>", "</think>")])
    base = json.loads(tokenizer.to_str())

    def added(*tokens):
        first = len(base["model"]["vocab"])
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
        return {"added_tokens": [plain | {"id": first + i} | token for i, token in enumerate(tokens)]}
    variants = {
        "single words": added({"content": "word", "single_word": True}, {"content": "STOP", "single_word": True, "special": True}),
        "stripping": added({"content": "<l>", "lstrip": True}, {"content": "<r>", "rstrip": True}, {"content": "STOP", "lstrip": True, "rstrip": True}),
        "normalised": added({"content": "e\u0301clair", "normalized": True}, {"content": "\u212b", "normalized": True}, {"content": "word", "normalized": True}),
        "not normalised": added({"content": "\u212b"}, {"content": "e\u0301"}, {"content": "\u00e9clair"}),
        "overlapping": added({"content": "<|"}, {"content": "<|begin"}, {"content": "<|begin|>", "special": True}, {"content": "in|>"}, {"content": "|<"}),
        "with spaces and marks": added({"content": " text "}, {"content": "n\u00e9"}, {"content": "\u4e16\u754c", "special": True}, {"content": "   "}),
        "NFD": {"normalizer": {"type": "NFD"}},
        "NFKC": {"normalizer": {"type": "NFKC"}},
        "NFKD and replace": {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKD"}, {"type": "Replace", "pattern": {"Regex": "\\p{M}+"}, "content": ""},
                                            {"type": "Prepend", "prepend": "> "}]}},
    }
    return base, variants


def smollm2():
    # Bytes that no training text has are missing from the alphabet, as in the original: they vanish.
    tokenizer = train(pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)]), None, [])
    tokenizer.decoder = decoders.ByteLevel()
    base = json.loads(tokenizer.to_str())
    shift = len(SPECIAL)
    base["model"]["vocab"] = {t: i for i, t in enumerate(SPECIAL)} | {t: i + shift for t, i in base["model"]["vocab"].items()}
    base["added_tokens"] = [{"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
                            for i, t in enumerate(SPECIAL)]
    variants = {
        "unknown token": {"model": {"unk_token": "<|end|>"}},
        "fused unknown tokens": {"model": {"unk_token": "<|end|>", "fuse_unk": True}},
    }
    return base, variants


def sentencepiece():
    """Llama 2's kind: characters instead of bytes, byte tokens for what is missing."""
    normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer = train(pre_tokenizers.Split(Regex("(?=\u2581)"), "isolated"), normalizer, [], 700)
    base = json.loads(tokenizer.to_str())
    vocab = {"<unk>": 0, "<s>": 1} | {f"<0x{b:02X}>": b + 2 for b in range(256)}
    for token in base["model"]["vocab"]:
        vocab.setdefault(token, len(vocab))
    base["model"] |= {"vocab": vocab, "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
    base["pre_tokenizer"] = None
    base["added_tokens"] = [{"id": 1, "content": "<s>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}]
    base["decoder"] = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    base["post_processor"] = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                              "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                              "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}
    return base, {"without byte tokens": {"model": {"byte_fallback": False}}, "unknown one by one": {"model": {"byte_fallback": False, "fuse_unk": False}}}


def merged(base, patch):
    if not isinstance(patch, dict):
        return patch
    result = dict(base) if isinstance(base, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def record(tokenizer_json, texts):
    # The library wants members that a merge patch removes to be there.
    for key in ("normalizer", "pre_tokenizer", "post_processor", "decoder", "truncation", "padding"):
        tokenizer_json.setdefault(key, None)
    tokenizer = Tokenizer.from_str(json.dumps(tokenizer_json))
    cases = []
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        case = {"text": text, "ids": ids}
        special = tokenizer.encode(text, add_special_tokens=True).ids
        if special != ids:
            case["special"] = special
        tokenizer.encode_special_tokens = True
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        tokenizer.encode_special_tokens = False
        if plain != ids:
            case["plain"] = plain
        for name, skip in (("decoded", False), ("skipped", True)):
            decoded = tokenizer.decode(ids, skip_special_tokens=skip)
            if decoded != text:
                case[name] = decoded
        cases.append(case)
    return cases


def record_real(path, text_files, golden_file):
    texts = list(TEXTS)
    for name in text_files:
        with open(name, encoding="utf-8", newline="") as file:
            text = file.read()
        texts += [text, *text.splitlines(True)]
    golden = {"file": str(pathlib.Path(path).resolve()), "cases": record(json.loads(pathlib.Path(path).read_text(encoding="utf-8")), texts)}
    pathlib.Path(golden_file).write_text(json.dumps(golden, separators=(",", ":"), ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{golden_file}: {len(texts)} texts, {sum(len(case['ids']) for case in golden['cases'])} tokens")


def main():
    if len(sys.argv) > 1:
        return record_real(sys.argv[1], sys.argv[2:-1], sys.argv[-1])
    TARGET.mkdir(parents=True, exist_ok=True)
    for make in (llama3, qwen, smollm2, sentencepiece):
        base, variants = make()
        # The library decodes a normalised added token that is not ASCII to U+FFFD; ours gives its text.
        golden = {"tokenizer": base, "cases": record(base, TEXTS), "variants": [
            {"name": name, "patch": patch, "decode": name != "normalised", "cases": record(merged(base, patch), SOME if name in WIDE else FEW)} for name, patch in variants.items()]}
        path = TARGET / f"{make.__name__}.json"
        path.write_text(json.dumps(golden, separators=(",", ":"), ensure_ascii=False) + "\n", encoding="utf-8")
        print(path, path.stat().st_size)


if __name__ == "__main__":
    main()

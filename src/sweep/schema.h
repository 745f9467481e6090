#pragma once

#include <filesystem>
#include <string_view>

#include "sweep/sqlite.h"

// The tables of a sweep's database; docs/sweep.md says what each column means.
namespace slidesparse {

// Version of the tables that this program writes (PRAGMA user_version).
inline constexpr int kSchemaVersion = 1;
inline constexpr int kApplicationId = 0x534C5350;  // "SLSP" (PRAGMA application_id)

// Makes the tables in an empty database, or brings older ones to this version, in one transaction. Throws
// kInput for a database of another program or of a newer version.
void migrate_schema(SqliteConnection& connection);
// For readers: throws kInput unless it is a sweep's database of this version.
void check_schema(const SqliteConnection& connection);

}  // namespace slidesparse

/* Work that libraries of the distribution do: compression, SQL, cryptography. Linked statically. */
#include <bzlib.h>
#include <openssl/evp.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "suite.h"

#define TEXT_BYTES (64 << 10)

/* Text-like bytes that compress to about a third. */
static const unsigned char *text(void)
{
	static unsigned char bytes[TEXT_BYTES];
	uint32_t seed = 7;

	if (bytes[0])
		return bytes;
	for (size_t i = 0; i < TEXT_BYTES;) {
		seed = seed * 1103515245u + 12345u;
		for (unsigned k = 0, word = seed >> 20; k < 3 + word % 6 && i < TEXT_BYTES; k++)
			bytes[i++] = (unsigned char)('a' + (word * (k + 1)) % 26);
		if (i < TEXT_BYTES)
			bytes[i++] = ' ';
	}
	return bytes;
}

static void run_zlib(long n)
{
	static unsigned char out[TEXT_BYTES * 2], back[TEXT_BYTES];

	for (long i = 0; i < n; i++) {
		uLongf len = sizeof(out), back_len = sizeof(back);

		if (compress2(out, &len, text(), TEXT_BYTES, 6) != Z_OK ||
		    uncompress(back, &back_len, out, len) != Z_OK ||
		    memcmp(back, text(), TEXT_BYTES) != 0)
			wrong("zlib");
	}
}

static void run_bzip2(long n)
{
	static char out[TEXT_BYTES * 2], back[TEXT_BYTES];

	for (long i = 0; i < n; i++) {
		unsigned len = sizeof(out), back_len = sizeof(back);

		if (BZ2_bzBuffToBuffCompress(out, &len, (char *)text(), TEXT_BYTES, 1, 0, 0) !=
			    BZ_OK ||
		    BZ2_bzBuffToBuffDecompress(back, &back_len, out, len, 0, 0) != BZ_OK ||
		    memcmp(back, text(), TEXT_BYTES) != 0)
			wrong("bzip2");
	}
}

static void sql(sqlite3 *db, const char *statement)
{
	if (sqlite3_exec(db, statement, NULL, NULL, NULL) != SQLITE_OK)
		wrong(sqlite3_errmsg(db));
}

static void run_sqlite(long n)
{
	for (long i = 0; i < n; i++) {
		sqlite3 *db;
		sqlite3_stmt *query;

		if (sqlite3_open(":memory:", &db) != SQLITE_OK)
			wrong("sqlite");
		sql(db,
		    "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, value INT);"
		    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) "
		    "INSERT INTO t SELECT i, 'name' || (i * 37 % 1009), i * 3 FROM n;"
		    "CREATE INDEX by_name ON t (name); UPDATE t SET value = value + 1 WHERE name LIKE '%9';");
		sqlite3_prepare_v2(db, "SELECT count(*), sum(value) FROM t WHERE name > 'name5'",
				   -1, &query, NULL);
		if (sqlite3_step(query) != SQLITE_ROW || sqlite3_column_int(query, 0) <= 0)
			wrong("sqlite");
		sink += (uint64_t)sqlite3_column_int64(query, 1);
		sqlite3_finalize(query);
		sqlite3_close(db);
	}
}

#define CHUNK 8192

static void cipher(long n, const EVP_CIPHER *type)
{
	static unsigned char in[CHUNK], out[CHUNK + 64], key[64], iv[16];
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	int len;

	if (!EVP_EncryptInit_ex(ctx, type, NULL, key, iv))
		wrong("cipher");
	for (long i = 0; i < n; i++)
		EVP_EncryptUpdate(ctx, out, &len, in, CHUNK);
	sink += out[5];
	EVP_CIPHER_CTX_free(ctx);
}

static void run_aes_gcm(long n)
{
	cipher(n, EVP_aes_128_gcm());
}

static void run_chacha20(long n)
{
	cipher(n, EVP_chacha20_poly1305());
}

static void run_evp_sha256(long n)
{
	static unsigned char in[CHUNK], out[64];
	unsigned len;

	for (long i = 0; i < n; i++)
		EVP_Digest(in, CHUNK, out, &len, EVP_sha256(), NULL);
	if (out[0] != 0x9f || out[1] != 0x1d) /* of 8 KiB of zeroes: 9f1dcbc3... */
		wrong("evp-sha256");
}

const struct test tests_library[] = {
	{"zlib", "64K/s", run_zlib, 0},
	{"bzip2", "64K/s", run_bzip2, 0},
	{"sqlite", "databases/s", run_sqlite, 0},
	{"aes-gcm", "8K/s", run_aes_gcm, 0},
	{"chacha20", "8K/s", run_chacha20, 0},
	{"evp-sha256", "8K/s", run_evp_sha256, 0},
	{0},
};

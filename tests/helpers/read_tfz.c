/* Unpack files, and print a line of JSON for each: read_tfz FILE... With mutants: read_tfz --mutants COUNT FILE... */
#define TFZ_IMPLEMENTATION
#include "tfz.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static size_t used, most;

/* Blocks remember their sizes, to measure the memory beside input and output. */
static void *allocate(void *user, size_t bytes) {
    (void)user;
    size_t *block = malloc(bytes + 16);
    if (!block) return NULL;
    *block = bytes;
    used += bytes;
    if (used > most) most = used;
    return (char *)block + 16;
}

static void release(void *user, void *block) {
    (void)user;
    size_t *start = (size_t *)((char *)block - 16);
    used -= *start;
    free(start);
}

static const struct tfz_memory memory = {allocate, release, NULL};

static uint8_t *read_file(const char *name, size_t *length) {
    FILE *file = fopen(name, "rb");
    if (!file) exit(2);
    fseek(file, 0, SEEK_END);
    *length = (size_t)ftell(file);
    rewind(file);
    uint8_t *data = malloc(*length ? *length : 1);
    if (fread(data, 1, *length, file) != *length) exit(2);
    fclose(file);
    return data;
}

static const char *unpack(const uint8_t *packed, size_t length, uint8_t **content, uint64_t *size) {
    const char *reason = tfz_size(packed, length, size);
    *content = NULL;
    if (reason) return reason;
    *content = malloc(*size ? *size : 1);
    return *content ? tfz_unpack(packed, length, *content, *size, &memory) : "there is not enough memory";
}

static void report(const char *name, int writes) {
    size_t length;
    uint64_t size;
    uint8_t *packed = read_file(name, &length), *content;
    most = 0;
    clock_t start = clock();
    const char *reason = unpack(packed, length, &content, &size);
    double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    if (reason) {
        printf("{\"name\": \"%s\", \"refusal\": \"%s\"}\n", name, reason);
    } else {
        printf("{\"name\": \"%s\", \"size\": %llu, \"crc\": %u, \"seconds\": %f, \"memory\": %zu}\n", name,
               (unsigned long long)size, tfz_crc32(content, size), seconds, most);
    }
    if (writes && !reason) {
        char path[4096];
        snprintf(path, sizeof path, "%s.out", name);
        FILE *file = fopen(path, "wb");
        if (!file || fwrite(content, 1, size, file) != size) exit(2);
        fclose(file);
    }
    free(packed);
    free(content);
}

static uint32_t next_random(uint32_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

/* Damage files at random; sanitizers find what goes wrong. Prints how many were read all the same. */
static void mutate(const char *name, long count, uint32_t *state, long *read) {
    size_t length;
    uint64_t size;
    uint8_t *packed = read_file(name, &length), *content;
    for (long number = 0; number < count; number++) {
        size_t shorter = next_random(state) % 8 ? length : next_random(state) % (length + 1);
        uint8_t *copy = malloc(shorter ? shorter : 1);
        memcpy(copy, packed, shorter);
        for (unsigned change = 0; shorter && change < 1 + next_random(state) % 4; change++)
            copy[next_random(state) % shorter] = (uint8_t)next_random(state);
        *read += unpack(copy, shorter, &content, &size) == NULL;
        free(content);
        free(copy);
    }
    free(packed);
}

int main(int count, char **arguments) {
    if (count > 3 && strcmp(arguments[1], "--mutants") == 0) {
        uint32_t state = 1;
        long read = 0;
        for (int index = 3; index < count; index++) mutate(arguments[index], atol(arguments[2]), &state, &read);
        printf("%ld mutants were read all the same, %zu bytes were not released\n", read, used);
        return used != 0;
    }
    int writes = count > 1 && strcmp(arguments[1], "--write") == 0;
    for (int index = 1 + writes; index < count; index++) report(arguments[index], writes);
    return used != 0;
}

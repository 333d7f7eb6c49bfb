/* Read packed model files (.tfz), in C99, without dependencies. The format: docs/reference/tfz.md.

   In one file of a program, which is compiled as C:

       #define TFZ_IMPLEMENTATION
       #include "tfz.h"

   and in others, of C or C++, the header alone. An example, where `packed` and `length` are the file:

       uint64_t size;
       const char *reason = tfz_size(packed, length, &size);
       uint8_t *model = reason ? NULL : malloc(size ? size : 1);
       if (model) reason = tfz_unpack(packed, length, model, size, &(struct tfz_memory){my_allocate, my_release, NULL});

   Nothing in a file is trusted. Memory comes from the callbacks alone: the table of the file, its pieces' order, three
   streams of a piece (at most 3 MiB) and 32 KiB. Floats have to follow IEEE 754, without -ffast-math. */
#ifndef TFZ_H
#define TFZ_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Where memory comes from. `allocate` returns NULL where there is none, and is never asked for 0 bytes. */
struct tfz_memory {
    void *(*allocate)(void *user, size_t bytes);
    void (*release)(void *user, void *block);
    void *user;
};

/* Tell the bytes of the .tflite file in a packed one. Returns NULL, or the reason why the file is refused. */
const char *tfz_size(const uint8_t *packed, size_t length, uint64_t *size);

/* Unpack into `output`, which has `size` bytes as `tfz_size` tells. Returns NULL, or the reason why the file is refused;
   `output` then holds nothing of use. */
const char *tfz_unpack(const uint8_t *packed, size_t length, uint8_t *output, uint64_t size, const struct tfz_memory *memory);

#ifdef __cplusplus
}
#endif

#ifdef TFZ_IMPLEMENTATION

#include <string.h>

#define TFZ_TRY(call) do { const char *tfz_reason = (call); if (tfz_reason) return tfz_reason; } while (0)
#define TFZ_CHECK(holds, reason) do { if (!(holds)) return (reason); } while (0)

enum { TFZ_HEADER = 25, TFZ_PIECE = 17, TFZ_STREAM = 5, TFZ_MIN_PIECE = 256, TFZ_MAX_PIECE = 1 << 20, TFZ_CLASSES = 6 };
enum tfz_kind { TFZ_PLAIN, TFZ_STEPS, TFZ_RUNS, TFZ_MASK, TFZ_SCALED, TFZ_FOLDED, TFZ_ROWS, TFZ_NEAR };

static const struct { uint8_t width, kind, streams; } tfz_forms[16] = {
    {1, TFZ_PLAIN, 1}, {2, TFZ_PLAIN, 2}, {4, TFZ_PLAIN, 4}, {1, TFZ_STEPS, 1}, {2, TFZ_STEPS, 2}, {4, TFZ_STEPS, 4},
    {1, TFZ_RUNS, 2}, {2, TFZ_RUNS, 3}, {4, TFZ_RUNS, 5}, {1, TFZ_MASK, 2}, {2, TFZ_MASK, 3}, {4, TFZ_MASK, 5},
    {4, TFZ_SCALED, 0}, {4, TFZ_FOLDED, 4}, {1, TFZ_ROWS, 2 + TFZ_CLASSES}, {4, TFZ_NEAR, 1}};

static uint32_t tfz_u32(const uint8_t *at) {
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static void tfz_put_u32(uint8_t *at, uint32_t value) {
    for (int byte = 0; byte < 4; byte++) at[byte] = (uint8_t)(value >> 8 * byte);
}

static uint32_t tfz_crc32(const uint8_t *data, uint64_t size) {
    uint32_t table[16], sum = 0xffffffff;
    for (uint32_t index = 0; index < 16; index++) {
        uint32_t value = index;
        for (int bit = 0; bit < 4; bit++) value = value >> 1 ^ (value & 1 ? 0xedb88320 : 0);
        table[index] = value;
    }
    for (uint64_t at = 0; at < size; at++) {
        sum ^= data[at];
        sum = sum >> 4 ^ table[sum & 15];
        sum = sum >> 4 ^ table[sum & 15];
    }
    return ~sum;
}

/* Bytes that are written up to a limit, and from which later ones are copied. */
struct tfz_output {
    uint8_t *bytes;
    size_t length, limit;
};

static const char *tfz_put(struct tfz_output *output, uint8_t byte) {
    TFZ_CHECK(output->length < output->limit, "a stream is longer than it may be");
    output->bytes[output->length++] = byte;
    return NULL;
}

static const char *tfz_append(struct tfz_output *output, const uint8_t *data, size_t count) {
    TFZ_CHECK(count <= output->limit - output->length, "a stream is longer than it may be");
    if (count) memcpy(output->bytes + output->length, data, count);
    output->length += count;
    return NULL;
}

static const char *tfz_copy(struct tfz_output *output, size_t distance, size_t count) {
    TFZ_CHECK(count <= output->limit - output->length, "a stream is longer than it may be");
    uint8_t *to = output->bytes + output->length;
    for (size_t at = 0; at < count; at++) to[at] = (to - distance)[at];
    output->length += count;
    return NULL;
}

/* ---- DEFLATE without a header (RFC 1951) ---- */

struct tfz_bits {
    const uint8_t *data;
    size_t length, at;
    uint32_t held;
    unsigned count;
    int is_short; /* bits were asked for beyond the end; they are 0 */
};

struct tfz_code {
    uint16_t counts[16], symbols[288];
};

static uint32_t tfz_take(struct tfz_bits *bits, unsigned count) {
    while (bits->count < count) {
        if (bits->at == bits->length) bits->is_short = 1;
        else bits->held |= (uint32_t)bits->data[bits->at++] << bits->count;
        bits->count += 8;
    }
    uint32_t value = bits->held & ((1u << count) - 1);
    bits->held >>= count;
    bits->count -= count;
    return value;
}

/* Return one symbol, the first bit of whose code is the next bit; -1 for a code that stands for nothing. */
static int tfz_symbol(struct tfz_bits *bits, const struct tfz_code *code) {
    int value = 0, first = 0, index = 0;
    for (int length = 1; length <= 15; length++) {
        value |= (int)tfz_take(bits, 1);
        int count = code->counts[length];
        if (value - first < count) return code->symbols[index + value - first];
        index += count;
        first = (first + count) << 1;
        value <<= 1;
    }
    return -1;
}

/* Make a code from the lengths of its words. `may_be_incomplete` allows a single word of one bit, or none. */
static const char *tfz_make_code(struct tfz_code *code, const uint8_t *lengths, int count, int may_be_incomplete) {
    uint16_t places[17] = {0};
    memset(code->counts, 0, sizeof code->counts);
    for (int symbol = 0; symbol < count; symbol++) code->counts[lengths[symbol]]++;
    int words = count - code->counts[0], left = 1;
    code->counts[0] = 0;
    for (int length = 1; length <= 15; length++) {
        left = 2 * left - code->counts[length];
        TFZ_CHECK(left >= 0, "a stream is damaged (a code with too many words)");
        places[length + 1] = (uint16_t)(places[length] + code->counts[length]);
    }
    int is_single = words == 0 || (words == 1 && code->counts[1] == 1);
    TFZ_CHECK(left == 0 || (may_be_incomplete && is_single), "a stream is damaged (a code with too few words)");
    for (int symbol = 0; symbol < count; symbol++)
        if (lengths[symbol]) code->symbols[places[lengths[symbol]]++] = (uint16_t)symbol;
    return NULL;
}

static const char *tfz_fixed_codes(struct tfz_code codes[2]) {
    uint8_t lengths[288];
    memset(lengths, 8, sizeof lengths);
    memset(lengths + 144, 9, 112);
    memset(lengths + 256, 7, 24);
    TFZ_TRY(tfz_make_code(&codes[0], lengths, 288, 0));
    memset(lengths, 5, 32);
    return tfz_make_code(&codes[1], lengths, 32, 0);
}

static const char *tfz_read_codes(struct tfz_bits *bits, struct tfz_code codes[2]) {
    static const uint8_t order[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    uint8_t lengths[286 + 30] = {0};
    int literals = (int)tfz_take(bits, 5) + 257, distances = (int)tfz_take(bits, 5) + 1, count = (int)tfz_take(bits, 4) + 4;
    TFZ_CHECK(literals <= 286 && distances <= 30, "a stream is damaged (too many symbols)");
    for (int index = 0; index < count; index++) lengths[order[index]] = (uint8_t)tfz_take(bits, 3);
    TFZ_TRY(tfz_make_code(&codes[0], lengths, 19, 0));
    memset(lengths, 0, sizeof lengths);
    for (int at = 0; at < literals + distances;) {
        int symbol = tfz_symbol(bits, &codes[0]), repeat;
        TFZ_CHECK(symbol >= 0 && !bits->is_short, "a stream is damaged (the lengths of a code)");
        if (symbol < 16) {
            lengths[at++] = (uint8_t)symbol;
            continue;
        }
        TFZ_CHECK(symbol > 16 || at > 0, "a stream is damaged (a length repeated before the first)");
        repeat = symbol == 16 ? 3 + (int)tfz_take(bits, 2) : symbol == 17 ? 3 + (int)tfz_take(bits, 3) : 11 + (int)tfz_take(bits, 7);
        TFZ_CHECK(at + repeat <= literals + distances, "a stream is damaged (too many lengths)");
        memset(lengths + at, symbol == 16 ? lengths[at - 1] : 0, (size_t)repeat);
        at += repeat;
    }
    TFZ_CHECK(lengths[256], "a stream is damaged (a block without an end)");
    TFZ_TRY(tfz_make_code(&codes[0], lengths, literals, 1));
    return tfz_make_code(&codes[1], lengths + literals, distances, 1);
}

static const char *tfz_inflate_block(struct tfz_bits *bits, struct tfz_output *output, const struct tfz_code codes[2]) {
    static const uint16_t bases[29] = {3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
    static const uint8_t extras[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
    for (;;) {
        int symbol = tfz_symbol(bits, &codes[0]);
        TFZ_CHECK(!bits->is_short, "a stream is cut short");
        TFZ_CHECK(symbol >= 0 && symbol < 286, "a stream is damaged (a code that stands for nothing)");
        if (symbol == 256) return NULL;
        if (symbol < 256) {
            TFZ_TRY(tfz_put(output, (uint8_t)symbol));
            continue;
        }
        size_t length = bases[symbol - 257] + tfz_take(bits, extras[symbol - 257]);
        int place = tfz_symbol(bits, &codes[1]);
        TFZ_CHECK(place >= 0 && place < 30, "a stream is damaged (a distance that does not exist)");
        unsigned extra = place < 4 ? 0 : (unsigned)(place >> 1) - 1;
        size_t distance = 1 + (place < 2 ? (size_t)place : (size_t)(2 + (place & 1)) << extra) + tfz_take(bits, extra);
        TFZ_CHECK(!bits->is_short, "a stream is cut short");
        TFZ_CHECK(distance <= output->length && distance <= 32768, "a stream is damaged (a distance before the start)");
        TFZ_TRY(tfz_copy(output, distance, length));
    }
}

static const char *tfz_inflate(const uint8_t *data, size_t length, struct tfz_output *output) {
    struct tfz_bits bits = {data, length, 0, 0, 0, 0};
    struct tfz_code codes[2];
    for (int is_last = 0; !is_last;) {
        is_last = (int)tfz_take(&bits, 1);
        uint32_t kind = tfz_take(&bits, 2);
        TFZ_CHECK(kind < 3 && !bits.is_short, "a stream is damaged, or cut short");
        if (kind == 0) {
            bits.at -= bits.count >> 3;
            bits.held = bits.count = 0;
            uint32_t count = tfz_take(&bits, 16), complement = tfz_take(&bits, 16);
            TFZ_CHECK(count == (complement ^ 0xffff), "a stream is damaged (a stored block)");
            TFZ_CHECK(!bits.is_short && count <= length - bits.at, "a stream is cut short");
            TFZ_TRY(tfz_append(output, data + bits.at, count));
            bits.at += count;
            continue;
        }
        TFZ_TRY(kind == 1 ? tfz_fixed_codes(codes) : tfz_read_codes(&bits, codes));
        TFZ_TRY(tfz_inflate_block(&bits, output, codes));
    }
    TFZ_CHECK(bits.at - (bits.count >> 3) == length, "a stream goes on after its end");
    return NULL;
}

/* ---- LZMA2 without a container ---- */

struct tfz_lengths {
    uint16_t choice[2], low[16][8], mid[16][8], high[256];
};

struct tfz_probabilities {
    uint16_t is_match[12 << 4], is_repeat[12], is_repeat0[12], is_repeat1[12], is_repeat2[12], is_long[12 << 4];
    uint16_t slots[4][64], special[115], align[16], literals[0x300 << 4];
    struct tfz_lengths match_lengths, repeat_lengths;
};

struct tfz_lzma {
    struct tfz_output *output;
    struct tfz_probabilities *of;
    const uint8_t *data;
    size_t length, at, start, dictionary;
    uint32_t range, code, repeats[4];
    unsigned state, lc, lp, pb;
    int is_short;
};

static void tfz_reset(struct tfz_lzma *lzma) {
    uint16_t *each = (uint16_t *)lzma->of;
    for (size_t index = 0; index < sizeof *lzma->of / sizeof *each; index++) each[index] = 1024;
    lzma->state = 0;
    memset(lzma->repeats, 0, sizeof lzma->repeats);
}

static void tfz_normalize(struct tfz_lzma *lzma) {
    if (lzma->range >= 1u << 24) return;
    lzma->range <<= 8;
    lzma->code <<= 8;
    if (lzma->at < lzma->length) lzma->code |= lzma->data[lzma->at++];
    else lzma->is_short = 1;
}

static unsigned tfz_bit(struct tfz_lzma *lzma, uint16_t *probability) {
    tfz_normalize(lzma);
    uint32_t bound = (lzma->range >> 11) * *probability;
    if (lzma->code < bound) {
        lzma->range = bound;
        *probability = (uint16_t)(*probability + ((2048 - *probability) >> 5));
        return 0;
    }
    lzma->range -= bound;
    lzma->code -= bound;
    *probability = (uint16_t)(*probability - (*probability >> 5));
    return 1;
}

static uint32_t tfz_tree(struct tfz_lzma *lzma, uint16_t *table, unsigned bits) {
    uint32_t node = 1;
    for (unsigned index = 0; index < bits; index++) node = node << 1 | tfz_bit(lzma, table + node);
    return node - (1u << bits);
}

static uint32_t tfz_reverse_tree(struct tfz_lzma *lzma, uint16_t *table, unsigned bits) {
    uint32_t node = 1, value = 0;
    for (unsigned index = 0; index < bits; index++) {
        uint32_t bit = tfz_bit(lzma, table + node);
        node = node << 1 | bit;
        value |= bit << index;
    }
    return value;
}

static uint32_t tfz_length(struct tfz_lzma *lzma, struct tfz_lengths *of, unsigned position) {
    if (!tfz_bit(lzma, &of->choice[0])) return 2 + tfz_tree(lzma, of->low[position], 3);
    if (!tfz_bit(lzma, &of->choice[1])) return 10 + tfz_tree(lzma, of->mid[position], 3);
    return 18 + tfz_tree(lzma, of->high, 8);
}

static uint32_t tfz_distance(struct tfz_lzma *lzma, uint32_t length) {
    uint32_t slot = tfz_tree(lzma, lzma->of->slots[length < 6 ? length - 2 : 3], 6), value = 0;
    if (slot < 4) return slot;
    unsigned bits = (slot >> 1) - 1;
    uint32_t base = (2 | (slot & 1)) << bits;
    if (slot < 14) return base + tfz_reverse_tree(lzma, lzma->of->special + base - slot, bits);
    for (unsigned index = 4; index < bits; index++) {
        tfz_normalize(lzma);
        lzma->range >>= 1;
        uint32_t bit = lzma->code >= lzma->range;
        if (bit) lzma->code -= lzma->range;
        value = value << 1 | bit;
    }
    return base + (value << 4) + tfz_reverse_tree(lzma, lzma->of->align, 4);
}

static int tfz_is_before(const struct tfz_lzma *lzma) {
    size_t written = lzma->output->length - lzma->start;
    return lzma->repeats[0] >= (written < lzma->dictionary ? written : lzma->dictionary);
}

static const char *tfz_literal(struct tfz_lzma *lzma) {
    const uint8_t *end = lzma->output->bytes + lzma->output->length;
    size_t written = lzma->output->length - lzma->start;
    unsigned before = written ? end[-1] : 0, low = (unsigned)written & ((1u << lzma->lp) - 1), symbol = 1;
    uint16_t *table = lzma->of->literals + 0x300 * ((low << lzma->lc) + (before >> (8 - lzma->lc)));
    if (lzma->state >= 7) {
        TFZ_CHECK(!tfz_is_before(lzma), "a stream is damaged (a distance before the start)");
        unsigned match = *(end - lzma->repeats[0] - 1);
        while (symbol < 256) {
            unsigned wanted = match >> 7 & 1, bit = tfz_bit(lzma, table + ((1 + wanted) << 8) + symbol);
            match <<= 1;
            symbol = symbol << 1 | bit;
            if (bit != wanted) break;
        }
    }
    while (symbol < 256) symbol = symbol << 1 | tfz_bit(lzma, table + symbol);
    lzma->state = lzma->state < 4 ? 0 : lzma->state < 10 ? lzma->state - 3 : lzma->state - 6;
    return tfz_put(lzma->output, (uint8_t)symbol);
}

/* Choose one of the last distances, and return the length. */
static uint32_t tfz_repeated(struct tfz_lzma *lzma, unsigned position) {
    unsigned state = lzma->state;
    uint32_t *repeats = lzma->repeats;
    if (!tfz_bit(lzma, &lzma->of->is_repeat0[state])) {
        if (!tfz_bit(lzma, &lzma->of->is_long[(state << 4) + position])) {
            lzma->state = state < 7 ? 9 : 11;
            return 1;
        }
    } else {
        unsigned place = 1;
        if (tfz_bit(lzma, &lzma->of->is_repeat1[state])) place = 2 + tfz_bit(lzma, &lzma->of->is_repeat2[state]);
        uint32_t chosen = repeats[place];
        for (; place; place--) repeats[place] = repeats[place - 1];
        repeats[0] = chosen;
    }
    lzma->state = state < 7 ? 8 : 11;
    return tfz_length(lzma, &lzma->of->repeat_lengths, position);
}

static const char *tfz_lzma_step(struct tfz_lzma *lzma, size_t end) {
    unsigned state = lzma->state, position = (unsigned)(lzma->output->length - lzma->start) & ((1u << lzma->pb) - 1);
    uint32_t length;
    if (!tfz_bit(lzma, &lzma->of->is_match[(state << 4) + position])) return tfz_literal(lzma);
    if (!tfz_bit(lzma, &lzma->of->is_repeat[state])) {
        length = tfz_length(lzma, &lzma->of->match_lengths, position);
        memmove(lzma->repeats + 1, lzma->repeats, 3 * sizeof *lzma->repeats);
        lzma->repeats[0] = tfz_distance(lzma, length);
        lzma->state = state < 7 ? 7 : 10;
    } else {
        TFZ_CHECK(!tfz_is_before(lzma), "a stream is damaged (a distance before the start)");
        length = tfz_repeated(lzma, position);
    }
    TFZ_CHECK(!tfz_is_before(lzma), "a stream is damaged (a distance before the start)");
    TFZ_CHECK(length <= end - lzma->output->length, "a stream is damaged (a chunk longer than it says)");
    return tfz_copy(lzma->output, (size_t)lzma->repeats[0] + 1, length);
}

static const char *tfz_lzma_chunk(struct tfz_lzma *lzma, const uint8_t *data, size_t length, size_t size) {
    TFZ_CHECK(length >= 5 && data[0] == 0, "a stream is damaged (the start of a chunk)");
    TFZ_CHECK(size <= lzma->output->limit - lzma->output->length, "a stream is longer than it may be");
    lzma->data = data;
    lzma->length = length;
    lzma->at = 5;
    lzma->code = (uint32_t)data[1] << 24 | (uint32_t)data[2] << 16 | (uint32_t)data[3] << 8 | data[4];
    lzma->range = 0xffffffff;
    for (size_t end = lzma->output->length + size; lzma->output->length < end;) {
        TFZ_TRY(tfz_lzma_step(lzma, end));
        TFZ_CHECK(!lzma->is_short, "a stream is damaged (a chunk cut short)");
    }
    tfz_normalize(lzma);
    TFZ_CHECK(lzma->code == 0 && lzma->at == length && !lzma->is_short, "a stream is damaged (the end of a chunk)");
    return NULL;
}

static const char *tfz_lzma2(const uint8_t *data, size_t length, struct tfz_output *output, size_t dictionary, struct tfz_probabilities *of) {
    struct tfz_lzma lzma = {.output = output, .of = of, .dictionary = dictionary};
    int needs_dictionary = 1, needs_properties = 1;
    for (size_t at = 0; at < length;) {
        unsigned control = data[at++];
        if (control == 0) {
            TFZ_CHECK(at == length, "a stream goes on after its end");
            return NULL;
        }
        if (control >= 0xe0 || control == 1) {
            needs_dictionary = 0;
            needs_properties = 1;
            lzma.start = output->length;
        }
        TFZ_CHECK(!needs_dictionary, "a stream is damaged (its first chunk refers to earlier ones)");
        TFZ_CHECK(control <= 2 || control >= 0x80, "a stream is damaged (a chunk of an unknown kind)");
        size_t head = control < 0x80 ? 2 : control < 0xc0 ? 4 : 5;
        TFZ_CHECK(head <= length - at, "a stream is cut short");
        size_t size = ((size_t)data[at] << 8) + data[at + 1] + 1;
        if (control < 0x80) {
            at += head;
            TFZ_CHECK(size <= length - at, "a stream is cut short");
            TFZ_TRY(tfz_append(output, data + at, size));
            at += size;
            continue;
        }
        size += (size_t)(control & 31) << 16;
        size_t coded = ((size_t)data[at + 2] << 8) + data[at + 3] + 1;
        if (control >= 0xc0) {
            unsigned properties = data[at + 4];
            TFZ_CHECK(properties < 225, "a stream is damaged (its properties)");
            lzma.lc = properties % 9;
            lzma.lp = properties / 9 % 5;
            lzma.pb = properties / 45;
            TFZ_CHECK(lzma.lc + lzma.lp <= 4, "a stream is damaged (its properties)");
            needs_properties = 0;
        }
        TFZ_CHECK(!needs_properties, "a stream is damaged (a chunk without properties)");
        if (control >= 0xa0) tfz_reset(&lzma);
        at += head;
        TFZ_CHECK(coded <= length - at, "a stream is cut short");
        TFZ_TRY(tfz_lzma_chunk(&lzma, data + at, coded, size));
        at += coded;
    }
    return "a stream is cut short";
}

/* ---- The file ---- */

struct tfz_file {
    const uint8_t *packed;
    size_t length, at; /* where the next stream is */
    uint8_t *output, *table, *work[3];
    const uint8_t *streams; /* records of the next streams */
    struct tfz_probabilities *probabilities;
};

static const char *tfz_expand(const struct tfz_file *file, unsigned coder, const uint8_t *data, size_t length, struct tfz_output *output) {
    switch (coder) {
    case 0: return tfz_append(output, data, length);
    case 1: return tfz_inflate(data, length, output);
    case 2: return tfz_lzma2(data, length, output, (size_t)1 << 22, file->probabilities);
    case 3: return tfz_lzma2(data, length, output, (size_t)1 << 26, file->probabilities);
    default: return "a stream has a coder that does not exist";
    }
}

/* Unpack the next stream, of at most `limit` bytes, and tell its length. */
static const char *tfz_next(struct tfz_file *file, uint8_t *bytes, size_t limit, size_t *length) {
    struct tfz_output output = {bytes, 0, limit};
    unsigned coder = file->streams[0];
    size_t size = tfz_u32(file->streams + 1);
    file->streams += TFZ_STREAM;
    TFZ_CHECK(size <= file->length - file->at, "a stream goes beyond the end");
    TFZ_TRY(tfz_expand(file, coder, file->packed + file->at, size, &output));
    file->at += size;
    *length = output.length;
    return NULL;
}

static const char *tfz_exactly(struct tfz_file *file, uint8_t *bytes, size_t count) {
    size_t length;
    TFZ_TRY(tfz_next(file, bytes, count, &length));
    TFZ_CHECK(length == count, "a stream is shorter than its form asks for");
    return NULL;
}

/* Goes from one entry that is not the common one to the next. */
struct tfz_places {
    const uint8_t *marks;
    size_t length, count, at, place;
    int is_mask;
};

/* Return the place of the next entry; `count` after the last one. */
static size_t tfz_place(struct tfz_places *places) {
    if (places->is_mask) {
        while (places->at < places->count) {
            size_t at = places->at++;
            if (places->marks[at >> 3] & (128 >> (at & 7))) return at;
        }
        return places->count;
    }
    while (places->at < places->length) {
        unsigned run = places->marks[places->at++];
        places->place += run;
        if (run < 255) return places->place++;
    }
    return places->count;
}

/* Count the entries, of which none may lie behind the last. */
static const char *tfz_count(struct tfz_places places, size_t *found) {
    size_t end = places.is_mask ? places.count : places.length;
    for (*found = 0; places.at < end;) {
        size_t place = tfz_place(&places);
        if (place < places.count) ++*found;
        else TFZ_CHECK(places.at == end && (places.is_mask || places.marks[end - 1] == 255), "runs end beyond the last entry");
    }
    return NULL;
}

static const char *tfz_marks(struct tfz_file *file, struct tfz_places *places, size_t *found) {
    if (places->is_mask) {
        places->length = (places->count + 7) / 8;
        TFZ_TRY(tfz_exactly(file, file->work[0], places->length));
    } else {
        TFZ_TRY(tfz_next(file, file->work[0], places->count, &places->length));
    }
    places->marks = file->work[0];
    return tfz_count(*places, found);
}

static const char *tfz_join_marked(struct tfz_file *file, uint8_t *target, size_t size, const uint8_t *record) {
    unsigned width = tfz_forms[record[8]].width;
    struct tfz_places places = {.count = size / width, .is_mask = tfz_forms[record[8]].kind == TFZ_MASK};
    size_t found;
    TFZ_TRY(tfz_marks(file, &places, &found));
    for (unsigned byte = width; byte < 8; byte++) TFZ_CHECK(record[9 + byte] == 0, "the common entry does not fit");
    for (size_t at = 0; at < size; at++) target[at] = record[9 + at % width];
    for (unsigned byte = 0; byte < width; byte++) {
        struct tfz_places again = places;
        TFZ_TRY(tfz_exactly(file, file->work[1], found));
        for (size_t index = 0; index < found; index++) target[tfz_place(&again) * width + byte] = file->work[1][index];
    }
    return NULL;
}

static const char *tfz_join_rows(struct tfz_file *file, uint8_t *target, size_t size, const uint8_t *record) {
    uint32_t common = tfz_u32(record + 9), row = tfz_u32(record + 13);
    struct tfz_places places = {.count = size};
    size_t found;
    TFZ_CHECK(row && common < 256, "its rows do not exist");
    TFZ_TRY(tfz_marks(file, &places, &found));
    size_t rows = (size - 1) / row + 1;
    uint8_t *classes = file->work[1], *values = file->work[2];
    TFZ_TRY(tfz_exactly(file, classes, rows));
    for (size_t index = 0; index < rows; index++) TFZ_CHECK(classes[index] < TFZ_CLASSES, "a row has a class that does not exist");
    memset(target, (int)common, size);
    for (unsigned number = 0; number < TFZ_CLASSES; number++) {
        size_t length, used = 0;
        struct tfz_places again = places;
        TFZ_TRY(tfz_next(file, values, size, &length));
        for (size_t index = 0; index < found; index++) {
            size_t place = tfz_place(&again);
            if (classes[place / row] != number) continue;
            TFZ_CHECK(used < length, "a stream is shorter than its form asks for");
            target[place] = values[used++];
        }
        TFZ_CHECK(used == length, "a stream is longer than its form asks for");
    }
    return NULL;
}

static const char *tfz_join_planes(struct tfz_file *file, uint8_t *target, size_t size, const uint8_t *record) {
    unsigned width = tfz_forms[record[8]].width, kind = tfz_forms[record[8]].kind;
    size_t count = size / width;
    for (unsigned byte = 0; byte < width; byte++) {
        TFZ_TRY(tfz_exactly(file, file->work[0], count));
        for (size_t index = 0; index < count; index++) target[index * width + byte] = file->work[0][index];
    }
    for (size_t at = width; kind == TFZ_STEPS && at < size; at += width) {
        unsigned carry = 0;
        for (unsigned byte = 0; byte < width; byte++) {
            unsigned sum = target[at + byte] + (unsigned)target[at - width + byte] + carry;
            target[at + byte] = (uint8_t)sum;
            carry = sum >> 8;
        }
    }
    for (size_t at = 0; kind == TFZ_FOLDED && at < size; at += 4) {
        uint32_t folded = tfz_u32(target + at);
        tfz_put_u32(target + at, folded >> 1 ^ (folded & 1 ? 0xffffffff : 0));
    }
    return NULL;
}

/* Multiply an earlier piece by a number; of the form "near", go on by some steps of float32 from each product. */
static const char *tfz_scale(struct tfz_file *file, uint8_t *target, size_t size, uint32_t number) {
    const uint8_t *record = file->table + (size_t)number * TFZ_PIECE, *other;
    uint32_t index = tfz_u32(record + 9), bits = tfz_u32(record + 13);
    int is_near = tfz_forms[record[8]].kind == TFZ_NEAR;
    float factor, entry, product;
    TFZ_CHECK(index < number, "a piece is scaled from one that does not come before it");
    other = file->table + (size_t)index * TFZ_PIECE;
    TFZ_CHECK(tfz_u32(other + 4) == size, "a piece is scaled from one of another length");
    if (is_near) TFZ_TRY(tfz_exactly(file, file->work[0], size / 4));
    memcpy(&factor, &bits, 4);
    for (size_t at = 0; at < size; at += 4) {
        bits = tfz_u32(file->output + tfz_u32(other) + at);
        memcpy(&entry, &bits, 4);
        product = entry * factor;
        memcpy(&bits, &product, 4);
        if (is_near) bits += (file->work[0][at / 4] ^ 0x80u) - 0x80u;
        tfz_put_u32(target + at, bits);
    }
    return NULL;
}

static const char *tfz_join(struct tfz_file *file, uint32_t number) {
    const uint8_t *record = file->table + (size_t)number * TFZ_PIECE;
    uint8_t *target = file->output + tfz_u32(record);
    size_t size = tfz_u32(record + 4);
    switch (tfz_forms[record[8]].kind) {
    case TFZ_RUNS:
    case TFZ_MASK: return tfz_join_marked(file, target, size, record);
    case TFZ_ROWS: return tfz_join_rows(file, target, size, record);
    case TFZ_SCALED:
    case TFZ_NEAR: return tfz_scale(file, target, size, number);
    default: return tfz_join_planes(file, target, size, record);
    }
}

/* Sort the numbers of pieces by where these begin: a heap, in place. */
static void tfz_sort(uint32_t *order, uint32_t count, const uint8_t *table) {
#define TFZ_START(place) tfz_u32(table + (size_t)order[place] * TFZ_PIECE)
    for (uint32_t number = 0; number < count; number++) order[number] = number;
    for (uint64_t left = count / 2, end = count; end > 1;) {
        if (left) {
            left--;
        } else {
            uint32_t last = order[--end];
            order[end] = order[0];
            order[0] = last;
        }
        for (uint64_t at = left, child; (child = 2 * at + 1) < end; at = child) {
            if (child + 1 < end && TFZ_START(child + 1) > TFZ_START(child)) child++;
            if (TFZ_START(child) <= TFZ_START(at)) break;
            uint32_t other = order[child];
            order[child] = order[at];
            order[at] = other;
        }
    }
#undef TFZ_START
}

/* Move what lies outside of the pieces from the end of the output to its places. */
static const char *tfz_place_rest(struct tfz_file *file, const uint32_t *order, uint32_t count, size_t rest, size_t size) {
    const uint8_t *from = file->output + (size - rest);
    size_t end = 0;
    for (uint32_t place = 0; place <= count; place++) {
        const uint8_t *record = place < count ? file->table + (size_t)order[place] * TFZ_PIECE : NULL;
        size_t start = record ? tfz_u32(record) : size;
        TFZ_CHECK(start >= end && start - end <= rest, "its pieces overlap, or go beyond the end");
        memmove(file->output + end, from, start - end);
        from += start - end;
        rest -= start - end;
        end = record ? start + tfz_u32(record + 4) : start;
    }
    return NULL;
}

/* Check the table, and tell the bytes outside of the pieces and those of the largest one. */
static const char *tfz_check_table(const uint8_t *table, size_t length, uint32_t count, size_t *rest, size_t *largest) {
    size_t streams = 1;
    TFZ_CHECK(length >= (size_t)count * TFZ_PIECE, "its table is too short");
    for (uint32_t number = 0; number < count; number++) {
        const uint8_t *record = table + (size_t)number * TFZ_PIECE;
        size_t size = tfz_u32(record + 4);
        TFZ_CHECK(record[8] < 16, "a piece has a form that does not exist");
        TFZ_CHECK(size >= TFZ_MIN_PIECE && size <= TFZ_MAX_PIECE, "a piece is too short or too long");
        TFZ_CHECK(size % tfz_forms[record[8]].width == 0, "a piece is not a whole number of entries");
        TFZ_CHECK(size <= *rest, "its pieces are longer than it is");
        *rest -= size;
        streams += tfz_forms[record[8]].streams;
        if (size > *largest) *largest = size;
    }
    TFZ_CHECK(length == (size_t)count * TFZ_PIECE + streams * TFZ_STREAM, "its table names too few streams, or too many");
    return NULL;
}

static const char *tfz_read_table(struct tfz_file *file, uint32_t count, size_t limit, size_t *length) {
    struct tfz_output table = {file->table, 0, limit};
    size_t size = tfz_u32(file->packed + 21);
    TFZ_CHECK(size <= file->length - TFZ_HEADER, "its table goes beyond the end");
    TFZ_TRY(tfz_expand(file, file->packed[20], file->packed + TFZ_HEADER, size, &table));
    file->at = TFZ_HEADER + size;
    file->streams = file->table + (size_t)count * TFZ_PIECE;
    *length = table.length;
    return NULL;
}

static void *tfz_allocate(const struct tfz_memory *memory, size_t bytes) {
    return memory->allocate(memory->user, bytes ? bytes : 1);
}

static void tfz_release(const struct tfz_memory *memory, void *block) {
    if (block) memory->release(memory->user, block);
}

static const char *tfz_contents(struct tfz_file *file, uint32_t count, size_t size, const struct tfz_memory *memory) {
    size_t rest = size, largest = 0, length, written;
    TFZ_TRY(tfz_read_table(file, count, (size_t)count * (TFZ_PIECE + 8 * TFZ_STREAM) + TFZ_STREAM, &length));
    TFZ_TRY(tfz_check_table(file->table, length, count, &rest, &largest));
    TFZ_TRY(tfz_next(file, file->output + (size - rest), rest, &written));
    TFZ_CHECK(written == rest, "what lies outside of its pieces has another length");
    uint32_t *order = tfz_allocate(memory, count * sizeof *order);
    TFZ_CHECK(order, "there is not enough memory");
    tfz_sort(order, count, file->table);
    const char *reason = tfz_place_rest(file, order, count, rest, size);
    tfz_release(memory, order);
    TFZ_TRY(reason);
    file->work[0] = tfz_allocate(memory, 3 * largest);
    TFZ_CHECK(file->work[0], "there is not enough memory");
    file->work[1] = file->work[0] + largest;
    file->work[2] = file->work[1] + largest;
    for (uint32_t number = 0; number < count; number++) TFZ_TRY(tfz_join(file, number));
    TFZ_CHECK(file->at == file->length, "it goes on after its end");
    TFZ_CHECK(tfz_crc32(file->output, size) == tfz_u32(file->packed + 12), "its content is not what was packed");
    return NULL;
}

const char *tfz_size(const uint8_t *packed, size_t length, uint64_t *size) {
    TFZ_CHECK(length >= 4 && memcmp(packed, "TFZ", 3) == 0, "it is not a packed file, which begins with TFZ");
    TFZ_CHECK(packed[3] >= 1 && packed[3] <= 4, "it has a version that this reader does not know");
    TFZ_CHECK(length >= TFZ_HEADER, "its header is cut short");
    *size = tfz_u32(packed + 4) | (uint64_t)tfz_u32(packed + 8) << 32;
    TFZ_CHECK(*size <= (uint64_t)1 << 31, "it declares more than 2 GiB");
    TFZ_CHECK(*size <= ((uint64_t)1 << 26) + 1000 * (uint64_t)length, "it declares more than so few packed bytes hold");
    TFZ_CHECK(*size <= SIZE_MAX / 2, "it is too large for this processor");
    return NULL;
}

const char *tfz_unpack(const uint8_t *packed, size_t length, uint8_t *output, uint64_t size, const struct tfz_memory *memory) {
    struct tfz_file file = {.packed = packed, .length = length, .output = output};
    uint64_t declared;
    TFZ_TRY(tfz_size(packed, length, &declared));
    TFZ_CHECK(size == declared, "the output has another size than tfz_size tells");
    uint32_t count = tfz_u32(packed + 16);
    TFZ_CHECK((uint64_t)count * TFZ_MIN_PIECE <= size, "it declares more pieces than fit");
    TFZ_CHECK(count <= 4096 + length / 16, "it declares too many pieces");
    file.table = tfz_allocate(memory, (size_t)count * (TFZ_PIECE + 8 * TFZ_STREAM) + TFZ_STREAM);
    file.probabilities = tfz_allocate(memory, sizeof *file.probabilities);
    const char *reason = file.table && file.probabilities ? tfz_contents(&file, count, (size_t)size, memory) : "there is not enough memory";
    tfz_release(memory, file.work[0]);
    tfz_release(memory, file.probabilities);
    tfz_release(memory, file.table);
    return reason;
}

#endif /* TFZ_IMPLEMENTATION */
#endif /* TFZ_H */

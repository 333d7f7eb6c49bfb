// Read packed model files (.tfz), in browsers and in Node, without dependencies. The format: docs/reference/tfz.md.
//
//   import { unpack } from "./tfz.mjs";
//   const model = unpack(new Uint8Array(await (await fetch("model.tfz")).arrayBuffer()));
//
// Nothing in a file is trusted: whatever does not fit is a TfzError, before memory for it is taken.

/** Why a file cannot be read. */
export class TfzError extends Error {
  name = "TfzError";
}

const HEADER_BYTES = 25, PIECE_BYTES = 17, STREAM_BYTES = 5;
const NEWEST_VERSION = 4;
const MAX_UNPACKED_BYTES = 2 ** 31;
const MIN_PIECE_BYTES = 256, MAX_PIECE_BYTES = 2 ** 20;
const ROW_CLASSES = 6, MAX_STREAMS = 8;
const LONGEST_RUN = 255;
const DICTIONARY_BYTES = { 2: 2 ** 22, 3: 2 ** 26 };  // by coder

/** The forms by number: bytes of an entry, how entries are split, and the number of streams. */
const FORMS = [
  ...["plain", "steps"].flatMap((kind) => [1, 2, 4].map((width) => [width, kind, width])),
  ...["runs", "mask"].flatMap((kind) => [1, 2, 4].map((width) => [width, kind, width + 1])),
  [4, "scaled", 0],
  [4, "folded", 4],
  [1, "rows", 2 + ROW_CLASSES],
  [4, "near", 1],
];

/**
 * Return the .tflite file that a packed file holds, bit for bit.
 *
 * @param {Uint8Array} packed The packed file.
 * @param {{maxBytes?: number}} options `maxBytes`: the most bytes that the .tflite file may have, 2 GiB by default.
 * @returns {Uint8Array} The .tflite file.
 * @throws {TfzError} If it is not a packed file, has a newer version, is damaged or cut short, or holds more bytes.
 */
export function unpack(packed, { maxBytes = MAX_UNPACKED_BYTES } = {}) {
  const header = readHeader(packed, Math.min(maxBytes, MAX_UNPACKED_BYTES));
  const tableEnd = HEADER_BYTES + header.tableBytes;
  check(tableEnd <= packed.length, "its table goes beyond the end.");
  const tableLimit = header.pieces * (PIECE_BYTES + MAX_STREAMS * STREAM_BYTES) + STREAM_BYTES;
  const table = expand(packed.subarray(HEADER_BYTES, tableEnd), header.coder, tableLimit);
  const { pieces, streams } = readTable(table, header.pieces, header.size);
  const read = streamReader(packed, tableEnd, streams);
  const inPieces = pieces.reduce((sum, piece) => sum + piece.size, 0);
  const rest = read(header.size - inPieces);
  check(rest.length === header.size - inPieces, "what lies outside of its pieces has another length.");
  const whole = new Uint8Array(header.size);
  placeRest(whole, rest, pieces);
  pieces.forEach((piece, number) => {
    const target = whole.subarray(piece.start, piece.start + piece.size);
    if (piece.kind === "scaled" || piece.kind === "near") scale(target, whole, pieces[piece.detail], piece, number, read);
    else join(target, piece, read);
  });
  check(read.isAtEnd(), "it goes on after its end.");
  check(crc32(whole) === header.checksum, "its content is not what was packed.");
  return whole;
}

function check(holds, reason) {
  if (!holds) throw new TfzError(reason);
}

function readHeader(packed, limit) {
  check(packed.length >= 4 && packed[0] === 0x54 && packed[1] === 0x46 && packed[2] === 0x5a, "it is not a packed file, which begins with TFZ.");
  check(packed[3] >= 1 && packed[3] <= NEWEST_VERSION, `it has version ${packed[3]}, and this reader knows 1 to ${NEWEST_VERSION}.`);
  check(packed.length >= HEADER_BYTES, "its header is cut short.");
  const view = new DataView(packed.buffer, packed.byteOffset, HEADER_BYTES);
  const size = view.getUint32(4, true) + 2 ** 32 * view.getUint32(8, true);
  const pieces = view.getUint32(16, true);
  const most = Math.min(limit, 2 ** 26 + 1000 * packed.length);
  check(size <= most, `it declares ${size} bytes; at most ${most} are unpacked.`);
  check(pieces * MIN_PIECE_BYTES <= size, "it declares more pieces than fit.");
  check(pieces <= 2 ** 12 + Math.floor(packed.length / 16), "it declares too many pieces.");
  return { size, pieces, checksum: view.getUint32(12, true), coder: view.getUint8(20), tableBytes: view.getUint32(21, true) };
}

function readTable(table, count, size) {
  check(table.length >= count * PIECE_BYTES, "its table is too short.");
  const view = new DataView(table.buffer, table.byteOffset, table.length);
  const pieces = [];
  let streamCount = 1, sum = 0;
  for (let at = 0; at < count * PIECE_BYTES; at += PIECE_BYTES) {
    const form = FORMS[view.getUint8(at + 8)];
    check(form !== undefined, "a piece has a form that does not exist.");
    const [width, kind, needed] = form;
    const piece = { start: view.getUint32(at, true), size: view.getUint32(at + 4, true), width, kind };
    piece.detail = view.getUint32(at + 9, true);
    piece.high = view.getUint32(at + 13, true);
    check(piece.size >= MIN_PIECE_BYTES && piece.size <= MAX_PIECE_BYTES, "a piece is too short or too long.");
    check(piece.size % width === 0, "a piece is not a whole number of entries.");
    pieces.push(piece);
    streamCount += needed;
    sum += piece.size;
  }
  check(sum <= size, "its pieces are longer than it is.");
  check(table.length === count * PIECE_BYTES + streamCount * STREAM_BYTES, "its table names too few streams, or too many.");
  const streams = [];
  for (let at = count * PIECE_BYTES; at < table.length; at += STREAM_BYTES) {
    streams.push({ coder: view.getUint8(at), size: view.getUint32(at + 1, true) });
  }
  return { pieces, streams };
}

/** Return a function that unpacks the next stream, which may have so many bytes at most. */
function streamReader(packed, start, streams) {
  let at = start, next = 0;
  const read = (limit) => {
    const { coder, size } = streams[next++];
    check(at + size <= packed.length, "a stream goes beyond the end.");
    at += size;
    return expand(packed.subarray(at - size, at), coder, limit);
  };
  read.isAtEnd = () => at === packed.length;
  return read;
}

/** Put what lies outside of the pieces between them. */
function placeRest(whole, rest, pieces) {
  let end = 0, used = 0;
  for (const piece of [...pieces].sort((one, other) => one.start - other.start)) {
    const gap = piece.start - end;
    check(gap >= 0 && used + gap <= rest.length, "its pieces overlap, or go beyond the end.");
    whole.set(rest.subarray(used, used + gap), end);
    used += gap;
    end = piece.start + piece.size;
  }
  whole.set(rest.subarray(used), end);
}

/** Multiply an earlier piece of float32 by a number; of the form "near", go on by some steps from each product. */
function scale(target, whole, reference, piece, number, read) {
  check(piece.detail < number && reference.size === piece.size, "a piece is scaled from one that does not fit.");
  const entries = new DataView(whole.buffer, reference.start, reference.size);
  const products = new DataView(target.buffer, target.byteOffset, target.length);
  const bits = new DataView(new ArrayBuffer(4));
  bits.setUint32(0, piece.high);
  const factor = bits.getFloat32(0);
  const steps = piece.kind === "near" ? exactly(read, piece.size / 4) : null;
  for (let at = 0; at < piece.size; at += 4) {
    products.setFloat32(at, Math.fround(entries.getFloat32(at, true) * factor), true);
    if (steps) products.setUint32(at, products.getUint32(at, true) + ((steps[at / 4] << 24) >> 24), true);
  }
}

function exactly(read, count) {
  const stream = read(count);
  check(stream.length === count, `a stream has ${stream.length} bytes, not ${count}.`);
  return stream;
}

/** Put the entries of a piece together from its streams. */
function join(target, piece, read) {
  const { width, kind } = piece, count = target.length / width;
  if (kind === "rows") return joinRows(target, piece, read);
  if (kind === "runs" || kind === "mask") {
    const places = kind === "mask" ? marked(read, count) : afterRuns(read, count);
    check(piece.high === 0 && piece.detail < 256 ** width, "the common entry does not fit.");
    for (let byte = 0; byte < width; byte++) {
      const value = Math.floor(piece.detail / 256 ** byte) % 256;
      if (value) for (let at = byte; at < target.length; at += width) target[at] = value;
    }
    for (let byte = 0; byte < width; byte++) {
      const plane = exactly(read, places.length);
      for (let index = 0; index < places.length; index++) target[places[index] * width + byte] = plane[index];
    }
    return;
  }
  for (let byte = 0; byte < width; byte++) {
    const plane = exactly(read, count);
    for (let index = 0; index < count; index++) target[index * width + byte] = plane[index];
  }
  if (kind === "steps") addUp(target, width);
  if (kind === "folded") unfold(target);
}

/** Turn differences to the entry before into entries; sums wrap around. */
function addUp(target, width) {
  for (let at = width; at < target.length; at += width) {
    for (let byte = 0, carry = 0; byte < width; byte++) {
      const sum = target[at + byte] + target[at - width + byte] + carry;
      target[at + byte] = sum;
      carry = sum >> 8;
    }
  }
}

/** Bring the sign of each entry of four bytes back from the lowest bit, and all bits back from their complement. */
function unfold(target) {
  const view = new DataView(target.buffer, target.byteOffset, target.length);
  for (let at = 0; at < target.length; at += 4) {
    const folded = view.getUint32(at, true);
    view.setUint32(at, (folded >>> 1) ^ -(folded & 1), true);
  }
}

function joinRows(target, piece, read) {
  const { detail: common, high: length } = piece;
  check(length > 0 && common < 256, "its rows do not exist.");
  const places = afterRuns(read, target.length);
  const classes = exactly(read, Math.ceil(target.length / length));
  check(classes.every((rowClass) => rowClass < ROW_CLASSES), "a row has a class that does not exist.");
  target.fill(common);
  const members = Array.from({ length: ROW_CLASSES }, () => []);
  for (const place of places) members[classes[Math.floor(place / length)]].push(place);
  for (const group of members) {
    const values = exactly(read, group.length);
    for (let index = 0; index < group.length; index++) target[group[index]] = values[index];
  }
}

/** Return where the entries lie that runs of common entries end at; a run of 255 goes on in the next byte. */
function afterRuns(read, count) {
  const runs = read(count), places = [];
  let place = 0;
  for (const run of runs) {
    place += run;
    if (run === LONGEST_RUN) continue;
    check(place < count, "runs end beyond the last entry.");
    places.push(place++);
  }
  return places;
}

/** Return where the bits of a mask are set, the highest of each byte first. */
function marked(read, count) {
  const mask = exactly(read, Math.ceil(count / 8)), places = [];
  for (let index = 0; index < count; index++) {
    if (mask[index >> 3] & (128 >> (index & 7))) places.push(index);
  }
  return places;
}

function crc32(data) {
  const table = crc32.table ??= Uint32Array.from({ length: 256 }, (_, byte) => {
    for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? (byte >>> 1) ^ 0xedb88320 : byte >>> 1;
    return byte;
  });
  let sum = 0xffffffff;
  for (let at = 0; at < data.length; at++) sum = table[(sum ^ data[at]) & 255] ^ (sum >>> 8);
  return (sum ^ 0xffffffff) >>> 0;
}

/** Unpack one stream by its coder; it may have `limit` bytes at most. */
function expand(packed, coder, limit) {
  if (coder === 0) {
    check(packed.length <= limit, `a stream holds more than its ${limit} bytes.`);
    return packed;
  }
  check(coder <= 3, `a stream has the coder ${coder}, which does not exist.`);
  const output = new Output(limit);
  if (coder === 1) inflate(packed, output);
  else unpackLzma2(packed, output, DICTIONARY_BYTES[coder]);
  return output.bytes.subarray(0, output.length);
}

/** Bytes that grow up to a limit, from which later ones are copied. */
class Output {
  constructor(limit) {
    this.limit = limit;
    this.length = 0;
    this.bytes = new Uint8Array(Math.min(limit, 2 ** 16));
  }

  reserve(count) {
    const needed = this.length + count;
    check(needed <= this.limit, `a stream holds more than its ${this.limit} bytes.`);
    if (needed <= this.bytes.length) return;
    const larger = new Uint8Array(Math.min(this.limit, Math.max(needed, 2 * this.bytes.length)));
    larger.set(this.bytes.subarray(0, this.length));
    this.bytes = larger;
  }

  push(byte) {
    if (this.length === this.bytes.length) this.reserve(1);
    this.bytes[this.length++] = byte;
  }

  append(data) {
    this.reserve(data.length);
    this.bytes.set(data, this.length);
    this.length += data.length;
  }

  copy(distance, count) {
    this.reserve(count);
    const { bytes } = this;
    for (let at = this.length, end = at + count; at < end; at++) bytes[at] = bytes[at - distance];
    this.length += count;
  }
}

// DEFLATE without a header (RFC 1951).

const LENGTH_BASES = [3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258];
const LENGTH_BITS = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
const CODE_LENGTH_ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
const END_OF_BLOCK = 256, MAX_CODE_BITS = 15, WINDOW_BYTES = 2 ** 15;

function inflate(packed, output) {
  const bits = new Bits(packed);
  let isLast = false;
  while (!isLast) {
    isLast = bits.take(1) === 1;
    const kind = bits.take(2);
    check(kind < 3, "a stream is damaged (a block of an unknown kind).");
    if (kind === 0) copyStored(bits, output);
    else inflateBlock(bits, output, ...(kind === 1 ? fixedCodes() : readCodes(bits)));
  }
  check(bits.isAtEnd(), "a stream goes on after its end.");
}

class Bits {
  constructor(data) {
    this.data = data;
    this.at = 0;
    this.held = 0;
    this.count = 0;
  }

  take(count) {
    while (this.count < count) {
      check(this.at < this.data.length, "a stream is cut short.");
      this.held |= this.data[this.at++] << this.count;
      this.count += 8;
    }
    const value = this.held & ((1 << count) - 1);
    this.held >>>= count;
    this.count -= count;
    return value;
  }

  /** Decode one symbol; the first bit of a code is the next bit. */
  symbol({ counts, symbols }) {
    let code = 0, first = 0, index = 0;
    for (let length = 1; length <= MAX_CODE_BITS; length++) {
      code |= this.take(1);
      const count = counts[length];
      if (code - first < count) return symbols[index + code - first];
      index += count;
      first = (first + count) << 1;
      code <<= 1;
    }
    throw new TfzError("a stream is damaged (a code that stands for nothing).");
  }

  toByte() {
    this.at -= this.count >> 3;
    this.held = this.count = 0;
  }

  isAtEnd() {
    return this.at - (this.count >> 3) === this.data.length;
  }
}

function copyStored(bits, output) {
  bits.toByte();
  const length = bits.take(16), complement = bits.take(16);
  check(length === (complement ^ 0xffff), "a stream is damaged (a stored block).");
  check(bits.at + length <= bits.data.length, "a stream is cut short.");
  output.append(bits.data.subarray(bits.at, bits.at + length));
  bits.at += length;
}

/** Make a code from the lengths of its words; `mayBeIncomplete` allows a single word of one bit, or none. */
function makeCode(lengths, mayBeIncomplete) {
  const counts = new Uint16Array(MAX_CODE_BITS + 1), places = new Uint16Array(MAX_CODE_BITS + 2);
  for (const length of lengths) counts[length]++;
  const words = lengths.length - counts[0];
  counts[0] = 0;
  let left = 1;
  for (let length = 1; length <= MAX_CODE_BITS; length++) {
    left = 2 * left - counts[length];
    check(left >= 0, "a stream is damaged (a code with too many words).");
    places[length + 1] = places[length] + counts[length];
  }
  const isSingle = words === 0 || (words === 1 && counts[1] === 1);
  check(left === 0 || (mayBeIncomplete && isSingle), "a stream is damaged (a code with too few words).");
  const symbols = new Uint16Array(words);
  lengths.forEach((length, symbol) => {
    if (length) symbols[places[length]++] = symbol;
  });
  return { counts, symbols };
}

function fixedCodes() {
  const lengths = new Uint8Array(288).fill(8).fill(9, 144, 256).fill(7, 256, 280);
  return (fixedCodes.codes ??= [makeCode(lengths, false), makeCode(new Uint8Array(32).fill(5), false)]);
}

function readCodes(bits) {
  const literals = bits.take(5) + 257, distances = bits.take(5) + 1, count = bits.take(4) + 4;
  check(literals <= 286 && distances <= 30, "a stream is damaged (too many symbols).");
  const lengths = new Uint8Array(19);
  for (let index = 0; index < count; index++) lengths[CODE_LENGTH_ORDER[index]] = bits.take(3);
  const code = makeCode(lengths, false), all = new Uint8Array(literals + distances);
  for (let at = 0; at < all.length; ) {
    const symbol = bits.symbol(code);
    if (symbol < 16) {
      all[at++] = symbol;
      continue;
    }
    check(symbol > 16 || at > 0, "a stream is damaged (a length repeated before the first).");
    const value = symbol === 16 ? all[at - 1] : 0;
    const repeat = symbol === 16 ? 3 + bits.take(2) : symbol === 17 ? 3 + bits.take(3) : 11 + bits.take(7);
    check(at + repeat <= all.length, "a stream is damaged (too many lengths).");
    all.fill(value, at, at + repeat);
    at += repeat;
  }
  check(all[END_OF_BLOCK] > 0, "a stream is damaged (a block without an end).");
  return [makeCode(all.subarray(0, literals), true), makeCode(all.subarray(literals), true)];
}

function inflateBlock(bits, output, literalCode, distanceCode) {
  for (;;) {
    const symbol = bits.symbol(literalCode);
    if (symbol === END_OF_BLOCK) return;
    if (symbol < END_OF_BLOCK) {
      output.push(symbol);
      continue;
    }
    const index = symbol - END_OF_BLOCK - 1;
    check(index < LENGTH_BASES.length, "a stream is damaged (a length that does not exist).");
    const length = LENGTH_BASES[index] + bits.take(LENGTH_BITS[index]);
    const place = bits.symbol(distanceCode);
    check(place < 30, "a stream is damaged (a distance that does not exist).");
    const extra = Math.max(0, (place >> 1) - 1);
    const distance = 1 + (place < 2 ? place : (2 + (place & 1)) << extra) + bits.take(extra);
    check(distance <= Math.min(output.length, WINDOW_BYTES), "a stream is damaged (a distance before the start).");
    output.copy(distance, length);
  }
}

// LZMA2 without a container: chunks that are stored, or coded by LZMA.

const STATES = 12, LITERAL_STATES = 7, ALIGN_BITS = 4, FIRST_ALIGNED_SLOT = 14;
const MAX_LZMA_DISTANCE = 0xffffffff;

function unpackLzma2(packed, output, dictionaryBytes) {
  const lzma = new Lzma(output, dictionaryBytes);
  let at = 0, needsDictionary = true, needsProperties = true;
  const byte = () => {
    check(at < packed.length, "a stream is cut short.");
    return packed[at++];
  };
  for (let control = byte(); control !== 0; control = byte()) {
    if (control >= 0xe0 || control === 1) {
      needsDictionary = false;
      needsProperties = true;
      lzma.start = output.length;
    }
    check(!needsDictionary, "a stream is damaged (its first chunk refers to earlier ones).");
    if (control < 0x80) {
      check(control <= 2, "a stream is damaged (a chunk of an unknown kind).");
      const size = (byte() << 8) + byte() + 1;
      check(at + size <= packed.length, "a stream is cut short.");
      output.append(packed.subarray(at, at + size));
      at += size;
      continue;
    }
    const size = ((control & 31) << 16) + (byte() << 8) + byte() + 1;
    const codedSize = (byte() << 8) + byte() + 1;
    if (control >= 0xc0) {
      lzma.setProperties(byte());
      needsProperties = false;
    }
    check(!needsProperties, "a stream is damaged (a chunk without properties).");
    if (control >= 0xa0) lzma.reset();
    check(at + codedSize <= packed.length, "a stream is cut short.");
    lzma.decode(packed.subarray(at, at + codedSize), size);
    at += codedSize;
  }
  check(at === packed.length, "a stream goes on after its end.");
}

const probabilities = (count) => new Uint16Array(count).fill(1024);

class Lzma {
  constructor(output, dictionaryBytes) {
    this.output = output;
    this.dictionaryBytes = dictionaryBytes;
    this.start = 0;
  }

  setProperties(byte) {
    check(byte < 225, "a stream is damaged (its properties).");
    this.lc = byte % 9;
    this.lp = Math.floor(byte / 9) % 5;
    this.pb = Math.floor(byte / 45);
    check(this.lc + this.lp <= 4, "a stream is damaged (its properties).");
  }

  reset() {
    this.state = 0;
    this.repeats = [0, 0, 0, 0];
    this.isMatch = probabilities(STATES << 4);
    this.isRepeat = probabilities(STATES);
    this.isRepeat0 = probabilities(STATES);
    this.isRepeat1 = probabilities(STATES);
    this.isRepeat2 = probabilities(STATES);
    this.isRepeat0Long = probabilities(STATES << 4);
    this.literals = probabilities(0x300 << (this.lc + this.lp));
    this.slots = [0, 1, 2, 3].map(() => probabilities(64));
    this.special = probabilities(115);
    this.align = probabilities(1 << ALIGN_BITS);
    this.matchLengths = lengthCoder();
    this.repeatLengths = lengthCoder();
  }

  /** Decode a chunk of exactly so many bytes. */
  decode(data, size) {
    this.data = data;
    this.at = 5;
    check(data.length >= 5 && data[0] === 0, "a stream is damaged (the start of a chunk).");
    this.code = ((data[1] << 24) | (data[2] << 16) | (data[3] << 8) | data[4]) >>> 0;
    this.range = 0xffffffff;
    this.output.reserve(size);
    const end = this.output.length + size;
    while (this.output.length < end) this.step(end);
    this.normalize();
    check(this.code === 0 && this.at === data.length, "a stream is damaged (the end of a chunk).");
  }

  step(end) {
    const { output, state } = this;
    const position = (output.length - this.start) & ((1 << this.pb) - 1);
    if (this.bit(this.isMatch, (state << 4) + position) === 0) {
      this.literal();
      return;
    }
    let length;
    if (this.bit(this.isRepeat, state) === 0) {
      length = this.lengthOf(this.matchLengths, position);
      this.repeats = [this.distance(length), ...this.repeats.slice(0, 3)];
      this.state = state < LITERAL_STATES ? 7 : 10;
    } else {
      this.checkDistance();
      length = this.repeated(position);
    }
    this.checkDistance();
    check(output.length + length <= end, "a stream is damaged (a chunk longer than it says).");
    output.copy(this.repeats[0] + 1, length);
  }

  /** Choose one of the last distances, and return the length. */
  repeated(position) {
    const { state, repeats } = this;
    if (this.bit(this.isRepeat0, state) === 0) {
      if (this.bit(this.isRepeat0Long, (state << 4) + position) === 0) {
        this.state = state < LITERAL_STATES ? 9 : 11;
        return 1;
      }
    } else {
      let place = 1;
      if (this.bit(this.isRepeat1, state) === 1) place = 2 + this.bit(this.isRepeat2, state);
      repeats.unshift(...repeats.splice(place, 1));
    }
    this.state = state < LITERAL_STATES ? 8 : 11;
    return this.lengthOf(this.repeatLengths, position);
  }

  literal() {
    const { output, state } = this, written = output.length - this.start;
    const before = written ? output.bytes[output.length - 1] : 0;
    const low = written & ((1 << this.lp) - 1);
    const offset = 0x300 * ((low << this.lc) + (before >> (8 - this.lc)));
    let symbol = 1;
    if (state >= LITERAL_STATES) {
      this.checkDistance();
      let match = output.bytes[output.length - this.repeats[0] - 1];
      while (symbol < 256) {
        const wanted = (match >> 7) & 1;
        match <<= 1;
        const bit = this.bit(this.literals, offset + ((1 + wanted) << 8) + symbol);
        symbol = (symbol << 1) | bit;
        if (bit !== wanted) break;
      }
    }
    while (symbol < 256) symbol = (symbol << 1) | this.bit(this.literals, offset + symbol);
    output.push(symbol & 255);
    this.state = state < 4 ? 0 : state < 10 ? state - 3 : state - 6;
  }

  checkDistance() {
    const written = Math.min(this.output.length - this.start, this.dictionaryBytes);
    check(this.repeats[0] < written, "a stream is damaged (a distance before the start).");
  }

  lengthOf({ choice, low, mid, high }, position) {
    if (this.bit(choice, 0) === 0) return 2 + this.tree(low[position], 3);
    if (this.bit(choice, 1) === 0) return 10 + this.tree(mid[position], 3);
    return 18 + this.tree(high, 8);
  }

  distance(length) {
    const slot = this.tree(this.slots[Math.min(length - 2, 3)], 6);
    if (slot < 4) return slot;
    const bits = (slot >> 1) - 1, base = (2 | (slot & 1)) * 2 ** bits;
    if (slot < FIRST_ALIGNED_SLOT) return base + this.reverseTree(this.special, base - slot, bits);
    let value = 0;
    for (let index = 0; index < bits - ALIGN_BITS; index++) value = 2 * value + this.directBit();
    const distance = base + 2 ** ALIGN_BITS * value + this.reverseTree(this.align, 0, ALIGN_BITS);
    check(distance < MAX_LZMA_DISTANCE, "a stream is damaged (an end inside of a chunk).");
    return distance;
  }

  tree(table, bits) {
    let node = 1;
    for (let index = 0; index < bits; index++) node = (node << 1) | this.bit(table, node);
    return node - (1 << bits);
  }

  reverseTree(table, offset, bits) {
    let node = 1, value = 0;
    for (let index = 0; index < bits; index++) {
      const bit = this.bit(table, offset + node);
      node = (node << 1) | bit;
      value |= bit << index;
    }
    return value;
  }

  normalize() {
    if (this.range >= 2 ** 24) return;
    check(this.at < this.data.length, "a stream is damaged (a chunk cut short).");
    this.range = (this.range << 8) >>> 0;
    this.code = ((this.code << 8) | this.data[this.at++]) >>> 0;
  }

  bit(table, index) {
    this.normalize();
    const probability = table[index], bound = (this.range >>> 11) * probability;
    if (this.code < bound) {
      this.range = bound;
      table[index] = probability + ((2048 - probability) >> 5);
      return 0;
    }
    this.range -= bound;
    this.code -= bound;
    table[index] = probability - (probability >> 5);
    return 1;
  }

  directBit() {
    this.normalize();
    this.range >>>= 1;
    if (this.code < this.range) return 0;
    this.code -= this.range;
    return 1;
  }
}

function lengthCoder() {
  const trees = () => Array.from({ length: 16 }, () => probabilities(8));
  return { choice: probabilities(2), low: trees(), mid: trees(), high: probabilities(256) };
}

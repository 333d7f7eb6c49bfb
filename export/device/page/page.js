// The page: check each file against the expected outputs, then measure them in turns.

import { Runtime } from "./runtime.js";

const ROUNDS = 25;
const SHORTEST_MS = 20; // of a measurement: some browsers have clocks of one millisecond
const MOST_REPEATS = 2000;
const FRESH = { cache: "no-cache" }; // the folder may have been written anew
const ARRAYS = { float32: Float32Array, int32: Int32Array, uint8: Uint8Array };
const SMALLEST_SCALE = 1e-6; // outputs that are nearly all zero are compared as if the largest were this

const byId = (id) => document.getElementById(id);
const runtime = new Runtime(showProblem);
const result = { kind: "tfprune web", version: 1, rounds: 0, errors: [], files: [] };

main().catch((error) => {
  showProblem(error.message);
  say("The page could not finish.");
});

async function main() {
  const manifest = await (await fetched("manifest.json")).json();
  for (const element of document.querySelectorAll(".runtime")) element.textContent = manifest.name;
  say(`Loading ${manifest.name} …`);
  const samples = await (await fetched("samples.bin")).arrayBuffer();
  if (!(await fetch(`node_modules/${manifest.package}/package.json`, FRESH)).ok) {
    byId("missing").hidden = false;
    return say(`${manifest.name} is not installed in this folder.`);
  }
  const { build, milliseconds } = await runtime.start();
  Object.assign(result, { runtime: `${manifest.runtime}, ${build}`, start_ms: milliseconds });
  Object.assign(result, { browser: navigator.userAgent, cores: navigator.hardwareConcurrency ?? null });
  const rows = manifest.files.map((file) => ({ file, card: addCard(file.name) }));
  for (const row of rows) {
    say(`Checking ${row.file.name} …`);
    await check(row, samples);
  }
  const good = rows.filter(({ record }) => record.passed);
  const counted = rows.length === 1 ? "The file gives" : `${good.length} of ${rows.length} files give`;
  const verdict = good.length || rows.length > 1 ? `${counted} the expected outputs.` : "The file failed.";
  say(`${verdict} ${manifest.name} started in ${Math.round(milliseconds)} ms.`);
  showResult();
  byId("speed").hidden = !good.length;
  byId("measure").onclick = () => measure(good).catch((error) => showProblem(error.message));
}

async function fetched(path) {
  const response = await fetch(path, FRESH);
  if (!response.ok) throw new Error(`The server answers ${response.status} for ${path}. Write the folder again.`);
  return response;
}

/** Load a file, run the samples, and show how far its outputs are from the expected ones. */
async function check(row, samples) {
  const { file, card } = row;
  row.record = { name: file.name, passed: false, reason: "", tolerance: file.tolerance, sha256: file.sha256 };
  result.files.push(row.record);
  try {
    const { number, ...costs } = await runtime.load(file);
    Object.assign(row, { number });
    Object.assign(row.record, costs);
    card.set("download", bytesText(costs.wire_bytes));
    if (costs.bytes !== costs.wire_bytes) card.set("unpacked", bytesText(costs.bytes));
    if (costs.bytes !== costs.wire_bytes) card.set("unpacking", timeText(costs.unpack_ms));
    card.set("compiling", timeText(costs.compile_ms));
    row.record.difference = await largestDifference(row, samples);
    card.set("difference", row.record.difference.toPrecision(2).replace(/^0\.0$/, "0"));
    row.record.passed = row.record.difference <= file.tolerance;
    if (!row.record.passed) throw new Error(`outputs differ by ${row.record.difference.toPrecision(2)} of the largest`);
    card.say(`Outputs are right: within ${file.tolerance} of the largest.`, "good");
  } catch (error) {
    row.record.reason = error.message;
    card.say(`Error: ${error.message}.`, "bad");
  }
}

/** Return the largest difference to the expected outputs, relative to the largest of each. */
async function largestDifference({ file, number }, samples) {
  const arraysOf = (infos, starts) =>
    infos.map(({ shape, dtype }, place) => {
      const length = shape.reduce((product, size) => product * size, 1);
      return new ARRAYS[dtype](samples, starts[place], length);
    });
  let largest = 0;
  for (const { inputs, outputs } of file.runs) {
    const given = await runtime.run(number, arraysOf(file.inputs, inputs));
    arraysOf(file.outputs, outputs).forEach((expected, place) => {
      largest = Math.max(largest, difference(given[place], expected));
    });
  }
  return largest;
}

function difference(given, expected) {
  if (given.length !== expected.length) return Infinity;
  let scale = SMALLEST_SCALE, most = 0;
  expected.forEach((value, index) => {
    const apart = Math.abs(given[index] - value);
    scale = Math.max(scale, Math.abs(value));
    most = Number.isNaN(apart) ? Infinity : Math.max(most, apart);
  });
  return most / scale;
}

/** Time the files in turns; the first is what the others are compared with. */
async function measure(rows) {
  byId("measure").disabled = true;
  byId("progress").hidden = false;
  for (const row of rows) {
    for (let warm = 0; warm < 3; warm++) row.once = await runtime.time(row.number, 1);
    row.repeats = Math.min(MOST_REPEATS, Math.max(1, Math.ceil(SHORTEST_MS / Math.max(row.once, 1e-3))));
    row.times = [];
  }
  for (let round = 0; round < ROUNDS; round++) {
    byId("progress").value = round / ROUNDS;
    say(`Measuring: round ${round + 1} of ${ROUNDS}`);
    for (const row of round % 2 ? [...rows].reverse() : rows) row.times.push(await runtime.time(row.number, row.repeats));
  }
  result.rounds = ROUNDS;
  for (const row of rows) showTimes(row, rows[0]);
  byId("progress").hidden = true;
  byId("measure").disabled = false;
  const [first, ...others] = rows;
  const best = others.reduce((one, other) => (other.record.times_faster > one.record.times_faster ? other : one), others[0]);
  const text = best ? ` ${best.file.name} is ${best.record.times_faster.toFixed(2)} times as fast as ${first.file.name}.` : "";
  say(`Measured.${text}`);
  showResult();
}

function showTimes(row, reference) {
  const ratio = row === reference ? 1 : median(row.times.map((time, round) => reference.times[round] / time));
  const [low, middle, high] = [0.1, 0.5, 0.9].map((fraction) => quantile(row.times, fraction));
  Object.assign(row.record, { median_ms: middle, p10_ms: low, p90_ms: high, times_faster: ratio });
  row.card.set("one run", timeText(middle));
  row.card.set("speed", row === reference ? "reference" : `${ratio.toFixed(2)} times as fast`, "times");
}

const median = (numbers) => quantile(numbers, 0.5);

function quantile(numbers, fraction) {
  const sorted = [...numbers].sort((one, other) => one - other);
  const at = fraction * (sorted.length - 1), below = Math.floor(at);
  return sorted[below] + (at - below) * ((sorted[below + 1] ?? sorted[below]) - sorted[below]);
}

/** Add a card for a file; names are shown as text, never as markup. */
function addCard(name) {
  const card = add(byId("models"), "section");
  card.className = "model";
  add(card, "h2", name);
  const verdict = add(card, "p", "Waiting …"), list = add(card, "dl");
  verdict.className = "verdict";
  const values = new Map();
  return {
    say(text, kind) {
      verdict.textContent = text;
      verdict.classList.add(kind);
      card.classList.add(kind);
    },
    set(title, text, kind = "") {
      if (!values.has(title)) {
        add(list, "dt", title);
        values.set(title, add(list, "dd"));
      }
      values.get(title).textContent = text;
      values.get(title).className = kind;
    },
  };
}

function add(parent, tag, text = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  parent.append(element);
  return element;
}

function showProblem(text) {
  if (result.errors.length < 100) {
    result.errors.push(text);
    add(byId("problems").querySelector("ul"), "li", text);
  }
  byId("problems").hidden = false;
}

function showResult() {
  const text = JSON.stringify(result, null, 2);
  byId("json").textContent = text;
  byId("download").href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  byId("result").hidden = false;
}

byId("copy").onclick = async () => {
  const text = byId("json").textContent;
  // Pages of another machine in the local network have no clipboard of the newer kind.
  const isCopied = navigator.clipboard ? await navigator.clipboard.writeText(text).then(() => true, () => false) : false;
  say(isCopied || copySelected(text) ? "Copied." : "This browser does not copy: use the download, or show the JSON.");
};

function copySelected(text) {
  const field = add(document.body, "textarea", text);
  field.select();
  const isCopied = document.execCommand("copy");
  field.remove();
  byId("copy").focus();
  return isCopied;
}

function say(text) {
  byId("status").textContent = text;
}

const bytesText = (bytes) => `${bytes.toLocaleString("en")} bytes`;
const timeText = (milliseconds) => `${milliseconds.toPrecision(3)} ms`;

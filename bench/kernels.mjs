// Times a sparse file against its dense one with LiteRT.js in Node: node kernels.mjs FOLDER DENSE SPARSE INPUT PAIRS
// FOLDER is where npm has installed @litertjs/core, INPUT holds float32 numbers. Prints a line of JSON. With 0 PAIRS it
// runs the first file alone, three times, and prints the most memory that the process took.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";
import vm from "node:vm";

const [folder, dense, sparse, input, count] = process.argv.slice(2);
const pairs = Number(count);
const require = createRequire(path.join(path.resolve(folder), "package.json"));
const home = path.dirname(require.resolve("@litertjs/core/package.json"));
const wasm = path.join(home, "wasm");

// LiteRT.js is made for workers, whose scripts come by importScripts; in Node its WebAssembly asks for these names.
globalThis.self = globalThis;
globalThis.require = require;
globalThis.__dirname = wasm;
globalThis.__filename = path.join(wasm, "index.js");
globalThis.Module = { locateFile: (name) => path.join(wasm, name), print: () => {}, printErr: () => {} };
globalThis.importScripts = (name) => {
  vm.runInThisContext(`${readFileSync(name, "utf8")}\nglobalThis.ModuleFactory = ModuleFactory;`, { filename: name });
};

const { loadLiteRt, loadAndCompile, Tensor } = await import(pathToFileURL(path.join(home, "dist/index.js")));
await loadLiteRt(`${wasm}/`);
const models = [];
for (const file of pairs ? [dense, sparse] : [dense]) {
  models.push(await loadAndCompile(new Uint8Array(readFileSync(file)), { accelerator: "wasm" }));
}
const numbers = new Float32Array(Uint8Array.from(readFileSync(input)).buffer);

async function outputs(model) {
  const tensor = new Tensor(numbers, [...model.getInputDetails()[0].shape]);
  const values = [];
  for (const made of await model.run([tensor])) {
    values.push(Float32Array.from(await made.data()));
    made.delete();
  }
  tensor.delete();
  return values;
}

async function microseconds(model) {
  const start = process.cpuUsage();
  for (let count = 0; count < 5; count++) await outputs(model);
  const { user, system } = process.cpuUsage(start);
  return user + system;
}

// The largest difference of an output from the dense file's, relative to the largest of that output.
function differs(expected, found) {
  const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const most = expected.reduce((most, value, index) => Math.max(most, Math.abs(value - found[index])), 0);
  return most === 0 ? 0 : most / largest;
}

const { version } = JSON.parse(readFileSync(path.join(home, "package.json")));
if (!pairs) {
  for (let run = 0; run < 3; run++) await outputs(models[0]);
  const [, kilobytes] = readFileSync("/proc/self/status", "utf8").match(/VmHWM:\s*(\d+)/); // of Linux, since this start
  console.log(JSON.stringify({ version, kilobytes: Number(kilobytes) }));
  process.exit(0);
}

const [expected, found] = [await outputs(models[0]), await outputs(models[1])];
const difference = Math.max(...expected.map((values, index) => differs(values, found[index])));
for (const model of models) await microseconds(model); // the first calls are compiled anew while they run
const times = [];
for (let pair = 0; pair < pairs; pair++) times.push([await microseconds(models[0]), await microseconds(models[1])]);
const middle = (numbers) => numbers.sort((first, second) => first - second)[pairs >> 1];
const ratio = middle(times.map(([first, second]) => first / second));
const milliseconds = [0, 1].map((place) => middle(times.map((pair) => pair[place])) / 5000); // of five runs
console.log(JSON.stringify({ version, ratio, milliseconds, difference }));
process.exit(0);

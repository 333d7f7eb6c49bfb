// Unpack files, and print a line of JSON for each: node read_tfz.mjs READER FOLDER. What is in FOLDER is read in order.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [reader, folder] = process.argv.slice(2);
const { unpack, TfzError } = await import(pathToFileURL(reader));
for (const name of readdirSync(folder).filter((name) => name.endsWith(".tfz")).sort()) {
  const packed = new Uint8Array(readFileSync(`${folder}/${name}`));
  const start = process.cpuUsage();
  const row = { name };
  try {
    const content = unpack(packed);
    const { user, system } = process.cpuUsage(start);
    row.seconds = (user + system) / 1e6; // of processor time
    row.digest = createHash("sha256").update(content).digest("hex");
  } catch (error) {
    if (!(error instanceof TfzError)) throw error; // a crash, not a refusal
    row.refusal = error.message;
  }
  console.log(JSON.stringify(row));
}

// What the workers share: answers to the calls of runtime.js, and the download of a file.
"use strict";

const LONGEST = 500; // characters of a message

/** Answer calls of a page by functions, each with its result or the reason why there is none. */
function answer(calls) {
  onmessage = async ({ data: { id, name, argument } }) => {
    try {
      postMessage({ id, result: await calls[name](argument) });
    } catch (error) {
      postMessage({ id, reason: String(error?.message ?? error).slice(0, LONGEST) });
    }
  };
}

/** Return the bytes of a file, unpacked if it was packed, with its sizes and the milliseconds of each step. */
async function download(path) {
  const url = new URL(path.split("/").map(encodeURIComponent).join("/"), location).href;
  const begun = performance.now();
  const response = await fetch(url, { cache: "no-cache" });
  if (!response.ok) throw new Error(`the server answers ${response.status} for this file`);
  const received = new Uint8Array(await response.arrayBuffer());
  const fetched = performance.now();
  const isPacked = String.fromCharCode(...received.subarray(0, 3)) === "TFZ";
  const content = isPacked ? (await import("./tfz.js")).unpack(received) : received;
  const costs = {
    wire_bytes: performance.getEntriesByName(url).at(-1)?.encodedBodySize || received.length,
    bytes: content.length,
    fetch_ms: fetched - begun,
    unpack_ms: performance.now() - fetched,
  };
  return { content, costs };
}

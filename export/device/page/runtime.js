// LiteRT.js in a worker, seen from a page: each call returns a promise. Other pages can use it, too:
//
//   import { Runtime } from "./runtime.js";
//   const runtime = new Runtime();
//   await runtime.start();
//   const { number } = await runtime.load(file); // an entry of `files` in manifest.json
//   const [scores] = await runtime.run(number, [pixels]); // a Float32Array for each input and output

export class Runtime {
  #worker = new Worker("worker.js");
  #waiting = new Map();
  #calls = 0;

  /** @param {(text: string) => void} onError Called with what the runtime reports as an error. */
  constructor(onError = () => {}) {
    this.#worker.onmessage = ({ data }) => {
      if ("error" in data) return onError(data.error);
      const [resolve, reject] = this.#waiting.get(data.id);
      this.#waiting.delete(data.id);
      if ("reason" in data) reject(new Error(data.reason));
      else resolve(data.result);
    };
    this.#worker.onerror = (event) => {
      onError(event.message || "The worker failed.");
      for (const [, reject] of this.#waiting.values()) reject(new Error("the worker failed"));
    };
  }

  #call(name, argument) {
    return new Promise((resolve, reject) => {
      this.#waiting.set(++this.#calls, [resolve, reject]);
      this.#worker.postMessage({ id: this.#calls, name, argument });
    });
  }

  /** Start LiteRT.js; returns its build and the milliseconds it took. */
  start = () => this.#call("start");

  /** Fetch and compile a file; returns its number, its bytes, and the milliseconds of each step. */
  load = (file) => this.#call("load", file);

  /** Run a file on typed arrays, one for each input; returns one for each output. */
  run = (number, inputs) => this.#call("run", { number, inputs });

  /** Run a file some times on its last inputs; returns the milliseconds of one run. */
  time = (number, repeats) => this.#call("time", { number, repeats });
}

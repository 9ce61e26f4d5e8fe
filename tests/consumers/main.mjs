// talk.mjs here, and in a worker of this runtime.
import { talk } from "./talk.mjs";

const [url, token] = process.argv.slice(2);
console.log(`here: ${await talk(url, token)}`);
const worker = new Worker(new URL("./worker.mjs", import.meta.url), { type: "module" });
const said = new Promise((resolve, reject) => {
  worker.onmessage = ({ data }) => resolve(data);
  worker.onerror = (event) => reject(new Error(event.message));
});
worker.postMessage({ url, token });
console.log(`in a worker: ${await said}`);
worker.terminate();
process.exit(0);

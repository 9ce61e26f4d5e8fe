import { talk } from "./talk.mjs";

self.onmessage = async ({ data }) => {
  const said = await talk(data.url, data.token).catch((error) => String(error));
  self.postMessage(said);
};

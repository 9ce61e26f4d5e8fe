// What a bundler is given: the small client, and nothing that it takes by name.
import { createSmallClient } from "@heartline/client/live";

createSmallClient("wss://realtime.example.com/live").subscribe(({ status }) => {
  document.title = status;
});

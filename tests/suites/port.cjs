// Preloaded into a suite: the ports in FROM, which its tests have written into them, become
// PORT, where the server under test is. NODE_OPTIONS hands this on to child processes.
const net = require("node:net");

const { FROM, PORT } = process.env;
const from = new Set(FROM.split(","));
const connect = net.Socket.prototype.connect;
net.Socket.prototype.connect = function (...args) {
  const options = Array.isArray(args[0]) ? args[0][0] : args[0];
  if (typeof options === "object" && from.has(String(options?.port))) {
    options.port = Number(PORT);
  }
  return connect.apply(this, args);
};

// The load generator, against a node.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { after, before, describe, it } from "node:test";
import { BINARY, SECRET, freePort, serve } from "./lib/server.js";

let node;
before(async () => {
  node = await serve({
    "auth.mode": "optional",
    "limits.events": "off",
    "limits.joins": "off",
    "limits.connects_per_ip": "off",
    "presence.announce": "off",
    "server.send_buffer": "100KB",
  });
});
after(async () => assert.equal(await node.stop(), 0));

/** Runs `heartline load …`; its exit code, what it said, and its report. */
async function load(scenario, options = {}) {
  const given = {
    url: node.http,
    connections: 20,
    threads: 2,
    duration: "1s",
    warmup: "100ms",
    settle: "0ms",
    ...options,
  };
  const args = Object.entries(given).flatMap(([name, value]) =>
    value === true ? [`--${name}`] : [`--${name}`, `${value}`],
  );
  const child = spawn(BINARY, ["load", scenario, ...args], { stdio: ["ignore", "pipe", "pipe"] });
  let out = "",
    log = "";
  child.stdout.on("data", (data) => (out += data));
  child.stderr.on("data", (data) => (log += data));
  const [code] = await once(child, "close");
  const lines = out.split("\n").filter(Boolean);
  return { code, log, lines, report: lines.length === 1 ? JSON.parse(lines[0]) : undefined };
}

async function good(scenario, options) {
  const { code, log, report } = await load(scenario, options);
  assert.equal(code, 0, log);
  assert.equal(report.scenario, scenario);
  assert.deepEqual(report.failures, {});
  return report;
}

for (const protocol of ["socketio", "polling", "live"]) {
  describe(`over ${protocol}`, () => {
    it("idle connections are there, with tokens and in rooms, and are measured", async () => {
      const report = await good("idle", {
        protocol,
        tokens: true,
        set: `auth.jwt.secret=${SECRET}`,
        rooms: 3,
        pid: node.child.pid,
      });
      assert.deepEqual([report.connected, report.disconnected], [20, 0]);
      assert.ok(report.connects_per_second > 0 && report.server.resident_connected > 1e6);
    });

    it("events are acknowledged, all of them", async () => {
      const report = await good("echo", { protocol, "in-flight": 3 });
      assert.ok(report.operations > 20 && report.lost === 0);
      assert.ok(report.latency_us.p50 > 0 && report.latency_us.p50 <= report.latency_us.p99);
    });

    for (const [what, options] of [
      ["in flight", { "in-flight": 4 }],
      ["of several members, each by itself", { "in-flight": 4, publishers: 2, apart: true }],
      ["by a rate", { "publish-rate": 200 }],
    ]) {
      it(`publications ${what} reach every member of every room`, async () => {
        const report = await good("broadcast", { protocol, rooms: 5, ...options });
        assert.ok(report.operations > 20 && report.lost === 0, JSON.stringify(report));
      });
    }

    it("connections come and go", async () => {
      const report = await good("churn", { protocol });
      assert.ok(report.operations > 20 && report.connects_per_second > 0);
    });
  });
}

it("a machine is calibrated without a server", async () => {
  const { code, report } = await load("calibrate", { duration: "20ms" });
  assert.equal(code, 0);
  assert.ok(report.write_us > report.system_call_us && report.read_us > 0, JSON.stringify(report));
});

it("members who stop reading are let go, and nobody else loses anything", async () => {
  const options = {
    protocol: "live",
    connections: 20,
    // More than the kernel's buffers take, at a pace that who reads on a busy machine keeps.
    "publish-rate": 80,
    size: 20000,
    duration: "5s",
    "slow-percent": 20,
  };
  const report = await good("slow", options);
  assert.ok(report.close_codes[4413] > 0, JSON.stringify(report));
  assert.equal(report.lost, 0);
});

it("keyed publications keep them", async () => {
  const options = {
    protocol: "live",
    connections: 40,
    // Ten times what may wait for a connection, at a pace that a busy machine keeps.
    "publish-rate": 500,
    size: 20000,
    duration: "1s",
    keyed: true,
  };
  assert.deepEqual((await good("slow", options)).close_codes, {});
});

describe("what cannot be done", () => {
  for (const [what, scenario, options, code, says] of [
    ["an address without a scheme", "idle", { url: "127.0.0.1" }, 2, /http:\/\/127\.0\.0\.1:8080/],
    ["another scheme", "idle", { url: "ftp://127.0.0.1" }, 2, /https:\/\//],
    ["more publishers than members", "broadcast", { publishers: 30 }, 2, /more publishers/],
    ["more rooms than connections", "broadcast", { rooms: 50 }, 2, /more rooms than connections/],
    ["slow members without a rate", "slow", {}, 2, /rate/],
    ["tokens without a secret", "idle", { tokens: true }, 2, /auth\.jwt\.secret/],
    ["no time to measure in", "idle", { duration: "0s" }, 2, /more than 0/],
    ["a calibration in no time", "calibrate", { duration: "0ms" }, 2, /more than 0/],
    ["a process that is not there", "idle", { pid: 4_000_000_000 }, 1, /process/],
  ]) {
    it(`${what} ends with ${code} and says so`, async () => {
      const result = await load(scenario, options);
      assert.equal(result.code, code);
      assert.match(result.log, says);
      assert.deepEqual(result.lines, []);
    });
  }

  for (const scenario of ["idle", "churn"]) {
    it(`${scenario} without a server ends with 1 and says why`, async () => {
      const result = await load(scenario, { url: `http://127.0.0.1:${await freePort()}` });
      assert.equal(result.code, 1);
      assert.match(result.log, /no connection came about.*refused/s);
    });
  }

  for (const scenario of ["broadcast", "echo"]) {
    it(`${scenario} with events that a server lets nobody say ends with 1 and says so`, async () => {
      const result = await load(scenario, { protocol: "live", size: 2_000_000 });
      assert.equal(result.code, 1, JSON.stringify(result.report));
      assert.match(result.log, /nothing was measured: .* the server ended \d+ with 1009/);
      assert.deepEqual(result.lines, []);
    });
  }

  it("a server that refuses is part of the message", async () => {
    const strict = await serve();
    const result = await load("idle", { url: strict.http });
    assert.equal(result.code, 1);
    assert.match(result.log, /AUTH_REQUIRED|required/i);
    await strict.stop();
  });
});

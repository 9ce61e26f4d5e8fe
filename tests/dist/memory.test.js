// packaging/memory.c, which is linked into the static binary.
import { join } from "node:path";
import { test } from "node:test";
import { ROOT, folder, output } from "./lib.js";

test("memory is copied and compared rightly, whatever the lengths and overlaps", (t) => {
  const program = join(folder(t), "memory");
  output(["cc", "-O2", "-ffreestanding", "-fno-tree-loop-distribute-patterns", "-Wall", "-Werror",
    join(ROOT, "tests/dist/memory.c"), "-o", program]);
  output([program]);
});

// Chance that can be repeated.

/** Numbers from 0 to 1 that follow from a seed (mulberry32), and what is drawn by them. */
export class Dice {
  #state;

  constructor(seed) {
    this.#state = seed >>> 0;
    // Seeds that follow each other begin alike.
    for (let turn = 0; turn < 8; turn++) this.next();
  }

  next() {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = this.#state;
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  }

  between(from, to) {
    return Math.round(from + this.next() * (to - from));
  }

  one(list) {
    return list[Math.floor(this.next() * list.length)];
  }

  chance(part) {
    return this.next() < part;
  }
}

// One task at a time, for the newest wish only.

export class LatestOnly {
  #work;
  #pause;
  #wanted = false;
  #running = false;

  // Runs `work`, never twice at once and never more often than every `pause` milliseconds.
  constructor(work, pause) {
    this.#work = work;
    this.#pause = pause;
  }

  async want() {
    this.#wanted = true;
    if (this.#running) return;
    this.#running = true;
    try {
      while (this.#wanted) {
        await new Promise((resolve) => setTimeout(resolve, this.#pause));
        this.#wanted = false;
        await this.#work();
      }
    } finally {
      this.#running = false;
    }
  }
}

/**
 * Things in the order of their last use: a doubly linked list, each step in constant time.
 *
 * A Map whose entries are deleted and set again has the same order, but V8 leaves deleted entries in their hash chain
 * until the next rehash: a name asked for again and again then costs thousands of steps a query.
 */

/** What the list keeps in each of its members. */
export interface Linked<T> {
  older: T | undefined;
  newer: T | undefined;
}

export class RecencyList<T extends Linked<T>> {
  #oldest: T | undefined;
  #newest: T | undefined;

  /** @param member of no list */
  add(member: T): void {
    member.older = this.#newest;
    member.newer = undefined;
    if (this.#newest === undefined) this.#oldest = member;
    else this.#newest.newer = member;
    this.#newest = member;
  }

  /** @param member of this list */
  remove(member: T): void {
    if (member.older === undefined) this.#oldest = member.newer;
    else member.older.newer = member.newer;
    if (member.newer === undefined) this.#newest = member.older;
    else member.newer.older = member.older;
    member.older = undefined;
    member.newer = undefined;
  }

  /** Makes it the newest. @param member of this list */
  use(member: T): void {
    if (member === this.#newest) return;
    this.remove(member);
    this.add(member);
  }

  get oldest(): T | undefined {
    return this.#oldest;
  }

  /** Oldest first. The one that was yielded last may be used or removed meanwhile. */
  *[Symbol.iterator](): Generator<T> {
    let next = this.#oldest;
    while (next !== undefined) {
      const member = next;
      next = member.newer;
      yield member;
    }
  }
}

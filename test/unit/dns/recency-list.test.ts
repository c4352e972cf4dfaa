import { expect, it } from 'vitest';
import { type Linked, RecencyList } from '../../../src/dns/recency-list.ts';

interface Member extends Linked<Member> {
  readonly name: string;
}

function listOf(names: string): { readonly list: RecencyList<Member>; readonly members: Record<string, Member> } {
  const list = new RecencyList<Member>();
  const members: Record<string, Member> = {};
  for (const name of names) {
    const member: Member = { name, older: undefined, newer: undefined };
    members[name] = member;
    list.add(member);
  }
  return { list, members };
}

const text = (list: RecencyList<Member>): string => [...list].map(({ name }) => name).join('');

it.each([
  ['a', 'bca'],
  ['b', 'acb'],
  ['c', 'abc'],
])('using %s of abc makes it the newest', (name, expected) => {
  const { list, members } = listOf('abc');
  list.use(members[name] as Member);
  expect([text(list), list.oldest?.name]).toEqual([expected, expected[0]]);
});

it.each([
  ['a', 'bc'],
  ['b', 'ac'],
  ['c', 'ab'],
])('removing %s of abc leaves the others in their order', (name, expected) => {
  const { list, members } = listOf('abc');
  list.remove(members[name] as Member);
  expect(text(list)).toBe(expected);
  list.add(members[name] as Member);
  expect(text(list)).toBe(expected + name);
});

it('the last one removed leaves an empty list that can be filled again', () => {
  const { list, members } = listOf('a');
  list.remove(members['a'] as Member);
  expect([text(list), list.oldest]).toEqual(['', undefined]);
  list.add(members['a'] as Member);
  expect(text(list)).toBe('a');
});

it('each may be removed while it is looked at', () => {
  const { list } = listOf('abcd');
  const seen: string[] = [];
  for (const member of list) {
    seen.push(member.name);
    if (member.name !== 'c') list.remove(member);
  }
  expect([seen.join(''), text(list)]).toEqual(['abcd', 'c']);
});

it('does as an array does, over thousands of random steps', () => {
  const { list, members } = listOf('abcdefgh');
  let model = [...'abcdefgh'];
  for (let step = 0, state = 1; step < 5000; step++) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    const name = 'abcdefgh'[(state >>> 16) % 8] as string;
    const isIn = model.includes(name);
    model = model.filter((other) => other !== name);
    const member = members[name] as Member;
    if (isIn && (state & 0x100) === 0) {
      list.remove(member);
      continue;
    }
    if (isIn) list.use(member);
    else list.add(member);
    model.push(name);
    expect(text(list)).toBe(model.join(''));
  }
});

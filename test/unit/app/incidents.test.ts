import { expect, test } from 'vitest';
import { Incidents } from '../../../src/app/incidents.ts';

function incidentsAt(clock: { ms: number }): { incidents: Incidents; lines: string[] } {
  const lines: string[] = [];
  return {
    incidents: new Incidents(
      (line) => lines.push(line),
      () => new Date(clock.ms),
    ),
    lines,
  };
}

test('the latest ten are kept, oldest first', () => {
  const { incidents } = incidentsAt({ ms: 0 });
  for (let i = 0; i < 25; i++) incidents.add(`e${i}`);
  expect(incidents.latest).toHaveLength(10);
  expect(incidents.latest[0]).toEqual({ at: '1970-01-01T00:00:00.000Z', message: 'e15' });
});

test('a flood makes few lines, and the next one tells how many were left out', () => {
  const clock = { ms: 0 };
  const { incidents, lines } = incidentsAt(clock);
  for (let i = 0; i < 1000; i++) incidents.add('refused');
  expect(lines).toHaveLength(30);
  clock.ms += 2000;
  incidents.add('refused');
  expect(lines).toHaveLength(31);
  expect(lines.at(-1)).toBe('refused (and 970 more since the last line)');
});

test('what the engine left out counts as well', () => {
  const { incidents, lines } = incidentsAt({ ms: 0 });
  incidents.add('failed', 7);
  expect(lines).toEqual(['failed (and 7 more since the last line)']);
});

test('what the engines say is a line a second at most, all of them together, and flows have their own lines', () => {
  const clock = { ms: 900 };
  const { incidents, lines } = incidentsAt(clock);
  for (; clock.ms < 10_900; clock.ms += 100) {
    incidents.addNotice('engine: out of file descriptors', 9);
    incidents.addNotice('engine: out of file descriptors', 9);
  }
  expect(lines).toHaveLength(10);
  expect(lines.slice(0, 2)).toEqual([
    'engine: out of file descriptors (and 9 more since the last line)',
    'engine: out of file descriptors (and 199 more since the last line)',
  ]);
  incidents.add('refused');
  expect(lines.at(-1)).toBe('refused');
  expect(incidents.latest).toHaveLength(10);
});

test('a day of flood stays small', () => {
  const clock = { ms: 0 };
  const { incidents, lines } = incidentsAt(clock);
  for (let second = 0; second < 86_400; second++) {
    clock.ms += 1000;
    incidents.add('refused');
    incidents.add('refused');
  }
  expect(lines.length).toBeLessThan(45_000);
});

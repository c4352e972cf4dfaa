/**
 * Fuzzes what a proxy answers when it refuses, through the code that explains it: one printable line, no credential.
 *
 * Input: the beginning of the reply, cut anywhere. Nothing may throw.
 */
import { Credentials } from '../../src/proxy/credentials.ts';
import { explainRefusal } from '../../src/proxy/refusal.ts';
import { insist, main } from './loop/run.ts';

const PASSWORD = 'pw-canary-71';
const CREDENTIALS = new Credentials('alice', PASSWORD);
const ENCODED = Buffer.from(`alice:${PASSWORD}`).toString('base64');
const MOST_CHARACTERS = 2000;

main((input) => {
  const text = explainRefusal(input, '203.0.113.5:5432', CREDENTIALS);
  insist(text.length > 0 && text.length <= MOST_CHARACTERS, 'an explanation has a bound');
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must not be there
  insist(!/[\u0000-\u001f\u007f-\u009f]/.test(text), 'an explanation is one printable line');
  insist(!text.includes(PASSWORD) && !text.includes(ENCODED), 'an explanation holds no credential');
  // Its own words come first; what it quotes of the proxy's would make every input look new.
  return (text.match(/[a-z]+/g) ?? []).slice(0, 3).join(' ');
});

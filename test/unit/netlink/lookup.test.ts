import { describe, expect, it } from 'vitest';
import { encodePacketQuery, wayOf } from '../../../src/netlink/lookup.ts';
import { answer, kernelThatSays } from './captured.ts';

describe('the question', () => {
  it('for IPv4 has every attribute, ports in network order, and asks for the table', () => {
    const bytes = encodePacketQuery({
      destination: '192.0.2.1',
      protocol: 'udp',
      destinationPort: 0x0102,
      mark: 0x50560000,
      uid: 1000,
      outgoingIndex: 3,
    });
    expect(Buffer.from(bytes).toString('hex')).toBe(
      [
        '02' + '20' + '00' + '00' + '00000000' + '00100000', // rtmsg: AF_INET, /32, RTM_F_LOOKUP_TABLE
        '08000100c0000201', // RTA_DST
        '05001b0011000000', // RTA_IP_PROTO, padded
        '06001d0001020000', // RTA_DPORT
        '0800100000005650', // RTA_MARK
        '08001900e8030000', // RTA_UID
        '0800040003000000', // RTA_OIF
      ].join(''),
    );
  });

  it('for IPv6 has no flag, which strict kernels refuse, and ICMPv6 for ICMP', () => {
    const bytes = Buffer.from(encodePacketQuery({ destination: '2001:db8::1', protocol: 'icmp' })).toString('hex');
    expect(bytes.slice(0, 24)).toBe('0a8000000000000000000000');
    expect(bytes).toContain('05001b003a000000');
  });
});

describe('the answer', () => {
  it('that is no way is no error', () => {
    expect(wayOf(kernelThatSays(answer('link missing')), { destination: '192.0.2.1', protocol: 'tcp' })).toEqual({
      kind: 'none',
      symbol: 'ENODEV',
    });
  });
});

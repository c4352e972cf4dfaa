/** Asks NetworkManager, where it runs, to leave the TUN alone: it would adopt it and its resolver settings. */
import { execFile } from 'node:child_process';
import fs from 'node:fs';
import type { Log } from '../log.ts';

/** Made by NetworkManager at its start, removed with /run at boot. */
const RUNTIME_DIRECTORY = '/run/NetworkManager';
/** It answers over D-Bus in milliseconds; a hanging bus must not hang `up`. */
const TIMEOUT_MS = 2000;

/**
 * Best effort. The setting belongs to the device in NetworkManager's memory and goes with the device, so
 * nothing has to be undone.
 */
export async function leaveToUs(device: string, log: Log): Promise<void> {
  if (!fs.existsSync(RUNTIME_DIRECTORY)) return;
  await new Promise<void>((resolve) => {
    execFile('nmcli', ['device', 'set', device, 'managed', 'no'], { timeout: TIMEOUT_MS }, (error, _stdout, stderr) => {
      if (error) log.info(`NetworkManager was not told to leave ${device} alone: ${stderr.trim() || error.message}`);
      resolve();
    });
  });
}

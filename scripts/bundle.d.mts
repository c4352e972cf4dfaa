export function bundleProgram(): Promise<{ readonly text: string; readonly inputs: readonly string[] }>;

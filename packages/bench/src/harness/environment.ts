import { readdirSync, readFileSync } from 'node:fs'
import { arch, cpus, platform } from 'node:os'
import type { Environment } from '../contract/result.ts'

const CACHES = '/sys/devices/system/cpu/cpu0/cache'
const DEFAULT_CACHE = 32 << 20

/** This machine and this Node. */
export function readEnvironment(): Environment {
  const list = cpus()
  return {
    date: new Date().toISOString(),
    node: process.versions.node,
    v8: process.versions.v8,
    platform: `${platform()} ${arch()}`,
    cpu: list[0]?.model.trim() ?? 'unknown',
    cores: list.length,
    lastLevelCacheBytes: lastLevelCache(),
  }
}

/** Bytes of the last-level cache as Linux tells them; 32 MiB where nothing does. */
function lastLevelCache(): number {
  try {
    const sizes = readdirSync(CACHES)
      .filter((name) => name.startsWith('index'))
      .map((name) => readFileSync(`${CACHES}/${name}/size`, 'utf8').trim())
      .map((text) => Number.parseInt(text, 10) * (text.endsWith('M') ? 1 << 20 : 1 << 10))
    return Math.max(...sizes) > 0 ? Math.max(...sizes) : DEFAULT_CACHE
  } catch {
    return DEFAULT_CACHE
  }
}

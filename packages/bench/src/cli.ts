#!/usr/bin/env node
import { runCommand } from './commands/command.ts'
import { compare } from './commands/compare.ts'
import { model } from './commands/model.ts'
import { runCases } from './commands/run.ts'
import { runProgram } from './program/errors.ts'

// Run from the sources the worker is a source as well, and compiled it is compiled.
const suffix = import.meta.url.endsWith('.ts') ? 'ts' : 'js'
const host = { worker: new URL(`./scenario-worker.${suffix}`, import.meta.url), execArgv: process.execArgv }

await runProgram((args) => runCommand('guestdma-bench', [runCases(host), compare, model], args))

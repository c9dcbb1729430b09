#!/usr/bin/env node
import { guestdmaBench } from './commands/guestdma-bench.ts'
import { runProgram } from './program/errors.ts'

await runProgram(guestdmaBench)

// Each barrier, each wrap and each check of the device's half of a ring is needed: without it a test fails.
import { DEVICE_MUTANTS } from './support/device-mutants.ts'
import { testMutants } from './support/mutants.ts'

testMutants(DEVICE_MUTANTS)

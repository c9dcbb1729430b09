// Each barrier, each wrap and each check of the driver's half of a ring is needed: without it a test fails.
import { DRIVER_MUTANTS } from './support/driver-mutants.ts'
import { testMutants } from './support/mutants.ts'

testMutants(DRIVER_MUTANTS)

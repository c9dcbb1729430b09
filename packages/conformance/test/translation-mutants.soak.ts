// Each barrier and each check of the translations of a device in a worker is needed: without it a test fails.
import { testMutants } from './support/mutants.ts'
import { TRANSLATION_MUTANTS } from './support/translation-mutants.ts'

testMutants(TRANSLATION_MUTANTS)

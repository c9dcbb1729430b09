import {
  PARAMETER_NAMES,
  PARAMETERS,
  type ParameterName,
  type Parameters,
  PROFILE_NAMES,
  PROFILES,
  type ProfileName,
  parametersOf,
} from '../model/parameters.ts'
import { element } from './elements.ts'
import { figure } from './numbers.ts'

/** The prices of the model, as sliders and profile buttons. */
export interface Prices {
  readonly node: HTMLElement
  readonly profile: ProfileName
  readonly parameters: Parameters
}

/** Positions of a slider. */
const STEPS = 200
/** The least price above zero, and the greatest one. */
const RANGES = { ns: [0.1, 1e5], 'ns/byte': [0.001, 10], bytes: [1, 4096], reads: [1, 256] } as const

/** What a position of a slider stands for: prices begin at zero, sizes and counts at 1. Between, steps are ratios. */
export function valueAt(name: ParameterName, position: number): number {
  const { unit } = PARAMETERS[name]
  const [least, most] = RANGES[unit]
  const zero = least < 1
  if (zero && position === 0) return 0
  const first = zero ? 1 : 0
  const value = least * (most / least) ** ((position - first) / (STEPS - first))
  return Number(value.toPrecision(2))
}

/** The position that is the nearest to a value. */
export function positionOf(name: ParameterName, value: number): number {
  const { unit } = PARAMETERS[name]
  const [least, most] = RANGES[unit]
  const first = least < 1 ? 1 : 0
  if (value < least) return 0
  const share = Math.log(value / least) / Math.log(most / least)
  return Math.min(STEPS, Math.round(first + share * (STEPS - first)))
}

/** Makes the controls. They begin with `profile`. */
export function pricesOf(document: Document, first: ProfileName, onChange: () => void): Prices {
  let profile = first
  let parameters = parametersOf(first)
  const sliders = new Map<ParameterName, { range: HTMLInputElement; output: HTMLOutputElement }>()
  const show = (name: ParameterName): void => {
    const slider = sliders.get(name)
    if (slider === undefined) return
    const text = `${figure(parameters[name])} ${PARAMETERS[name].unit}`
    slider.range.setAttribute('aria-valuetext', text)
    slider.output.textContent = text
  }
  const showProfile = (): void => {
    for (const [i, button] of buttons.entries())
      button.setAttribute('aria-pressed', String(PROFILE_NAMES[i] === profile))
    for (const name of PARAMETER_NAMES) {
      const slider = sliders.get(name)
      if (slider !== undefined) slider.range.value = String(positionOf(name, parameters[name]))
      show(name)
    }
    meaning.textContent = `${profile}: ${PROFILES[profile].meaning}.`
  }
  const buttons = PROFILE_NAMES.map((name) => {
    const button = element(document, 'button', { type: 'button', title: PROFILES[name].meaning }, name)
    button.addEventListener('click', () => {
      profile = name
      parameters = parametersOf(name)
      showProfile()
      onChange()
    })
    return button
  })
  const meaning = element(document, 'p', { class: 'meaning', 'aria-live': 'polite' })
  const rows = PARAMETER_NAMES.map((name) => {
    const id = `price-${name}`
    const range = element(document, 'input', { type: 'range', id, min: '0', max: String(STEPS), step: '1' })
    const output = element(document, 'output', { for: id })
    sliders.set(name, { range, output })
    range.addEventListener('input', () => {
      parameters = { ...parameters, [name]: valueAt(name, Number(range.value)) }
      show(name)
      for (const button of buttons) button.setAttribute('aria-pressed', 'false')
      meaning.textContent = `Set by hand, from the profile ${profile}.`
      onChange()
    })
    const label = element(
      document,
      'label',
      { for: id },
      element(document, 'code', {}, name),
      ` ${PARAMETERS[name].meaning}`,
    )
    return element(document, 'div', { class: 'price' }, label, range, output)
  })
  const group = element(document, 'div', { role: 'group', 'aria-label': 'profile', class: 'profiles' }, ...buttons)
  const legend = element(document, 'legend', {}, 'Prices of the model')
  const node = element(
    document,
    'fieldset',
    { id: 'prices' },
    legend,
    group,
    meaning,
    element(document, 'div', { class: 'sliders' }, ...rows),
  )
  showProfile()
  return {
    node,
    get profile() {
      return profile
    },
    get parameters() {
      return parameters
    },
  }
}

export function millions(value: number): string {
  return (value / 1e6).toFixed(1)
}

export function whole(value: number): string {
  return Math.round(value).toLocaleString('en')
}

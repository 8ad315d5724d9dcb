"""The dataflows: wiring only; each reads like its box in the README's picture."""

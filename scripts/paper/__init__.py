"""The paper's tables, figures and claims, compared with our runs. No other package refers to the paper's results."""

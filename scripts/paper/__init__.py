"""The paper's tables, figures and claims beside ours. Nothing else knows the paper."""

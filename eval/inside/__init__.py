"""Code that runs inside the sandbox. Its source is passed to a bare Python, which cannot import this project."""

# make docs: the documentation with its gallery, offline, into docs/_build/html (QUICK=1: the demos' quick form).
.PHONY: docs
docs:
	python -m sphinx -W --keep-going -q $(if $(QUICK),-t quick) docs docs/_build/html
	@echo "open docs/_build/html/index.html"

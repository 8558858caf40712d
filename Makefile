# The front door: `make run` boots a machine, `make check` runs every test. Meson and ninja do the building.
BUILD ?= build

.PHONY: all run check check-long deps format lint install bench clean help

all: $(BUILD)/build.ninja
	ninja -C $(BUILD)

$(BUILD)/build.ninja:
	@scripts/install-deps build
	meson setup $(BUILD) -Dwerror=true $(if $(PREFIX),--prefix=$(PREFIX))

# Boots a stock Debian kernel with a small Debian root disk; without a terminal, a scripted session.
run:
	@scripts/install-deps build run demo
	@$(MAKE) --no-print-directory all
	@scripts/run-demo

check:
	@scripts/check

check-long:
	@scripts/check --long

# Everything that building, running and testing need.
deps:
	scripts/install-deps build run demo test

format:
	git ls-files --cached --others --exclude-standard '*.c' '*.h' | xargs clang-format -i

# What needs no tests to be found.
lint:
	@scripts/check --no-install style tidy cppcheck

install: all
	meson install -C $(BUILD) --no-rebuild --strip $(if $(DESTDIR),--destdir=$(DESTDIR))

# Each program in bench/ runs us and a peer side by side and prints both figures.
bench: all
	@for program in bench/*; do \
		if [ -f "$$program" ] && [ -x "$$program" ]; then "$$program" || exit; fi; \
	done

clean:
	rm -rf $(BUILD) build-asan build-tsan

help:
	@sed -n 's/^# The front door: //p' Makefile
	@echo 'Targets: all run check check-long deps format lint install bench clean'

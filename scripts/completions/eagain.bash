# Completion for bash. tests/packaging.rs compares it with the help of the program.

_eagain() {
    local word=${COMP_WORDS[COMP_CWORD]} before= options=
    COMPREPLY=()
    ((COMP_CWORD == 0)) || before=${COMP_WORDS[COMP_CWORD - 1]}
    # What follows an option that takes a value: a file can be completed, an address or a number cannot.
    case ${COMP_WORDS[1]}:$before in
        serve:--config)
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -f -- "$word")
            return
            ;;
        compare:--json | compare:--out)
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -f -- "$word")
            return
            ;;
        serve:--accept)
            mapfile -t COMPREPLY < <(compgen -W 'handoff exclusive reuseport' -- "$word")
            return
            ;;
        serve:--log-level)
            mapfile -t COMPREPLY < <(compgen -W 'error warning notice info debug' -- "$word")
            return
            ;;
        serve:--log-format)
            mapfile -t COMPREPLY < <(compgen -W 'text json' -- "$word")
            return
            ;;
        bench:--service)
            mapfile -t COMPREPLY < <(compgen -W 'echo frames discard chargen redis-ping' -- "$word")
            return
            ;;
        bench:--json | bench:--hdr | bench:--svg)
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -f -- "$word")
            return
            ;;
        bench:--churn | bench:--help) ;;
        serve:--model)
            mapfile -t COMPREPLY < <(compgen -W 'threads select poll completion epoll' -- "$word")
            return
            ;;
        serve:--edge-triggered | serve:--check | serve:--proxy-protocol | serve:--trace | serve:--help) ;;
        serve:--* | bench:--* | compare:--idle | compare:--repeat) return ;;
        connect:--max-frame | connect:--connect-timeout) return ;;
        inspect:inspect)
            if [[ $word != -* ]]; then
                mapfile -t COMPREPLY < <(cd /proc && compgen -G '[0-9]*' | grep "^$word")
                return
            fi
            ;;
        lab:--format)
            mapfile -t COMPREPLY < <(compgen -W 'text tap json html' -- "$word")
            return
            ;;
        lab:--output | lab:diff | lab:matrix)
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -f -- "$word")
            return
            ;;
        lab:lab)
            if [[ $word != -* ]]; then
                mapfile -t COMPREPLY < <(compgen -W 'run explain quiz gallery diff matrix' -- "$word")
                return
            fi
            ;;
        lab:gallery)
            if [[ $word != -* ]]; then
                mapfile -t COMPREPLY < <(compgen -W "$(eagain lab 2>/dev/null | sed -n 's/^  - //p')" -- "$word")
                return
            fi
            ;;
        lab:*)
            # The names are the program's own to tell: indented lines of its list.
            if [[ $word != -* ]]; then
                mapfile -t COMPREPLY < <(compgen -W "all $(eagain lab 2>/dev/null | sed -n 's/^  [* ] //p')" -- "$word")
                return
            fi
            ;;
    esac
    if ((COMP_CWORD == 1)); then
        local commands='serve connect bench report compare status lab inspect'
        mapfile -t COMPREPLY < <(compgen -W "$commands -V --version -h --help" -- "$word")
        return
    fi
    case ${COMP_WORDS[1]} in
        serve)
            options='
                --echo
                --discard
                --chargen
                --frames
                --log
                --delay
                --delay-ms
                --edge-triggered
                --model
                --workers
                --accept
                --backlog
                --max-frame
                --config
                --check
                --proxy-protocol
                --allow
                --deny
                --metrics
                --trace
                --log-level
                --log-format
                --drain-timeout
                --max-connections
                --max-connections-per-ip
                --accept-rate
                --max-buffered
                --idle-timeout
                --first-byte-timeout
                --write-timeout
                --frame-timeout
                -h --help'
            ;;
        connect)
            options='
                --frames
                --hex
                --no-echo
                --max-frame
                --connect-timeout
                -h --help'
            ;;
        bench)
            options='
                --service
                --connections
                --idle
                --churn
                --depth
                --size
                --rate
                --duration
                --messages
                --warm-up
                --repeat
                --threads
                --timeout
                --pid
                --json
                --hdr
                --svg
                -h --help'
            ;;
        report)
            options='
                --compare
                -h --help'
            ;;
        status)
            options='
                --watch
                --json
                -h --help'
            ;;
        compare)
            options='
                --quick
                --out
                --idle
                --repeat
                --json
                -h --help'
            [[ $word == -* ]] || options='models tables wakers'
            ;;
        inspect)
            options='
                --json
                -h --help'
            ;;
        lab)
            options='
                --format
                --output
                --mutated
                --slack
                -h --help'
            ;;
    esac
    if [[ ${COMP_WORDS[1]} == report && $word != -* ]]; then
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
        return
    fi
    mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word")
}

complete -F _eagain eagain

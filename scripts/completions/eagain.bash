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
            mapfile -t COMPREPLY < <(compgen -W 'threads select poll epoll' -- "$word")
            return
            ;;
        serve:--edge-triggered | serve:--check | serve:--proxy-protocol | serve:--trace | serve:--help) ;;
        serve:--* | bench:--* | compare:--idle | compare:--repeat) return ;;
        connect:--max-frame | connect:--connect-timeout) return ;;
    esac
    if ((COMP_CWORD == 1)); then
        options='serve connect bench report compare status -V --version -h --help'
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word")
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
    esac
    if [[ ${COMP_WORDS[1]} == report && $word != -* ]]; then
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
        return
    fi
    mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word")
}

complete -F _eagain eagain

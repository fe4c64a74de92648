# Completes trainact in bash; written by `trainact completion bash`.

# Sets takes, words and paths for a command, a command and its option, or a command and
# a hyphen, which is for its options.
_trainact_look_up() {
    takes=none words='' paths=''
    case "$1" in
@TABLE@
    esac
}

_trainact() {
    local takes words paths word path='' flag='' given=0 lead='' cur i
    local -a typed=()
    # Bash breaks words at colons and equals signs.
    for ((i = 1; i <= COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if ((i > 1)) && [[ $word == [:=]* || ${COMP_WORDS[i - 1]} == *[:=] ]]; then
            typed[${#typed[@]} - 1]+=$word
        else
            typed+=("$word")
        fi
    done
    cur=${typed[${#typed[@]} - 1]}
    unset "typed[${#typed[@]}-1]"
    for word in "${typed[@]}"; do
        if [[ $word == --*=* ]]; then
            flag=''
        elif [[ $word == -* ]]; then
            _trainact_look_up "$path $word"
            [[ $takes == none ]] && flag='' || flag=$word
        elif [[ -n $flag ]]; then
            [[ $takes == one ]] && flag=''
        else
            _trainact_look_up "$path"
            if [[ $takes == below && " $words " == *" $word "* ]]; then
                path="${path:+$path }$word"
            else
                ((given++))
            fi
        fi
    done
    if [[ $cur == --*=* ]]; then
        flag=${cur%%=*}
        [[ $COMP_WORDBREAKS == *=* ]] || lead="$flag="
        cur=${cur#*=}
    fi
    if [[ -n $flag && $cur != -* ]]; then
        _trainact_look_up "$path $flag"
    else
        _trainact_look_up "$path"
        if [[ $cur == -* || $takes == none || $takes == one && $given -gt 0 ]]; then
            _trainact_look_up "$path -"
        fi
    fi
    local IFS=$'\n' before=${cur%%:*}:
    if [[ $cur == *:* && " $words " == *" $before "* ]]; then
        COMPREPLY=($(compgen -P "$before" -d -- "${cur#*:}"))
        compopt -o filenames 2> /dev/null
    elif [[ -n $paths ]]; then
        COMPREPLY=($(compgen -f -- "$cur"))
        compopt -o filenames 2> /dev/null
    else
        COMPREPLY=($(compgen -W "${words// /$'\n'}" -- "$cur"))
        [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *: ]] &&
            compopt -o nospace 2> /dev/null
    fi
    for i in "${!COMPREPLY[@]}"; do
        word=$lead${COMPREPLY[i]}
        # Of a word with colons bash replaces what comes after the last one.
        [[ $cur == *:* && $COMP_WORDBREAKS == *:* ]] && word=${word#"${cur%:*}:"}
        COMPREPLY[i]=$word
    done
}

complete -F _trainact trainact

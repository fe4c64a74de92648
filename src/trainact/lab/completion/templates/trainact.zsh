#compdef trainact
# Completes trainact in zsh; written by `trainact completion zsh`.

# Words, of which those that end in a colon are followed by a folder.
_trainact_data() {
    local before
    for before in ${(M)@:#*:}; do
        if compset -P "$before"; then
            _files -/
            return
        fi
    done
    compadd -S '' -- ${(M)@:#*:}
    compadd -- ${@:#*:}
}

@TABLE@

if [[ $funcstack[1] == _trainact ]]; then
    _trainact "$@"
else
    compdef _trainact trainact
fi

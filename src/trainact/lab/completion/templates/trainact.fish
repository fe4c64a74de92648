# Completes trainact in fish; written by `trainact completion fish`.

# Whether these are the first words after the program's name.
function __trainact_in
    set -l typed (commandline -opc)
    set -l last (math (count $argv) + 1)
    test $last -eq 1; or test "$typed[2..$last]" = "$argv"
end

# Whether a command is still to be chosen after these words.
function __trainact_at
    set -l typed (commandline -opc)
    test (count $typed) -eq (math (count $argv) + 1); and __trainact_in $argv
end

# Whether words are given to an option that takes many.
function __trainact_fills
    set -l flags (string match -- '-*' (commandline -opc))
    test "$flags[-1]" = $argv[1]
end

# Folders behind words that end in a colon.
function __trainact_folders
    set -l token (string replace -r '^--[^=]*=' '' -- (commandline -ct))
    for before in $argv
        if string match -q -- "$before*" $token
            set -l rest (string replace -- $before '' $token)
            printf "$before%s\n" (__fish_complete_directories $rest)
        end
    end
end

complete -c trainact -f
@TABLE@

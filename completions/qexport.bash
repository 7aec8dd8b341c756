# Made by `qexport --print-page bash`; do not edit.
_qexport() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
  # --name=value comes as three words.
  if [[ $cur == = ]]; then cur=; elif [[ $prev == = ]]; then prev=${COMP_WORDS[COMP_CWORD-2]}; fi
  case $prev in
    --format|-f) COMPREPLY=($(compgen -W "$(qexport --list-formats --quiet 2>/dev/null)" -- "$cur")); return;;
    --group-size) COMPREPLY=($(compgen -W "32 64 128 256 channel tensor" -- "$cur")); return;;
    --num-bits) COMPREPLY=($(compgen -W "2 3 4 5 6 7 8" -- "$cur")); return;;
  esac
  if [[ $cur == -* ]]; then
    COMPREPLY=($(compgen -W "--help -h --version --format -f --output -o --shard-size --group-size --num-bits --pre --name --ledger --force --dry-run --no-verify --no-sync --list-formats --no-check --target --tp --ep --pp --hw --threads -j --max-memory --json --quiet -q --verbose -v --strict" -- "$cur"))
  else
    COMPREPLY=($(compgen -f -- "$cur"))
  fi
}
complete -o filenames -F _qexport qexport

# Made by `qquantize --print-page bash`; do not edit.
_qquantize() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
  # --name=value comes as three words.
  if [[ $cur == = ]]; then cur=; elif [[ $prev == = ]]; then prev=${COMP_WORDS[COMP_CWORD-2]}; fi
  case $prev in
    --scheme|-s) COMPREPLY=($(compgen -W "$(qquantize --list-schemes --quiet 2>/dev/null)" -- "$cur")); return;;
    --algorithm|-a) COMPREPLY=($(compgen -W "rtn" -- "$cur")); return;;
    --num-bits) COMPREPLY=($(compgen -W "2 3 4 5 6 7 8" -- "$cur")); return;;
    --group-size) COMPREPLY=($(compgen -W "32 64 128 256 channel tensor" -- "$cur")); return;;
    --symmetric) COMPREPLY=($(compgen -W "true false" -- "$cur")); return;;
  esac
  if [[ $cur == -* ]]; then
    COMPREPLY=($(compgen -W "--help -h --version --scheme -s --algorithm -a --compute --list-algorithms --log --num-bits --group-size --symmetric --numerics --pure --output-tensor-type --token-embedding-type --kv-cache --recipe --ignore --list-schemes --target-bpw --target-size --sensitivity --save-recipe --target --tp --ep --pp --hw --dry-run --explain --output -o --force --stream --no-sync --resume --refer --no-check --threads -j --max-memory --json --quiet -q --verbose -v --strict" -- "$cur"))
  else
    COMPREPLY=($(compgen -f -- "$cur"))
  fi
}
complete -o filenames -F _qquantize qquantize

# Made by `qload --print-page bash`; do not edit.
_qload() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
  # --name=value comes as three words.
  if [[ $cur == = ]]; then cur=; elif [[ $prev == = ]]; then prev=${COMP_WORDS[COMP_CWORD-2]}; fi
  case $prev in
    --dtype) COMPREPLY=($(compgen -W "BF16 F16 F32" -- "$cur")); return;;
  esac
  if [[ $cur == -* ]]; then
    COMPREPLY=($(compgen -W "--help -h --version --dequantize --dtype --include --exclude --modelopt-state --no-check --output -o --force --stream --no-sync --pack --zstd --hash --list --recipe --list-inputs --threads -j --max-memory --json --quiet -q --verbose -v --strict" -- "$cur"))
  else
    COMPREPLY=($(compgen -f -- "$cur"))
  fi
}
complete -o filenames -F _qload qload

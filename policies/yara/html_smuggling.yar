// HTML that builds a file in the browser and saves it: nothing is attached, nothing is downloaded.

// Fits reports with a button that saves what they decode, too: both do the same in a browser. Hence suspicious only.
rule HTML_Smuggling
{
    meta:
        kind = "suspicious"
        about = "a script that decodes a file and offers it for saving"
    strings:
        $script = "<script" ascii wide nocase
        $svg = "<svg" ascii wide nocase
        $decode_atob = /\batob\s{0,4}\(/ ascii wide nocase
        $decode_array = /\bnew\s{1,4}Uint8Array\s{0,4}\(/ ascii wide nocase
        $decode_code = /\bfromCharCode\s{0,4}\(/ ascii wide nocase
        $make_blob = /\bnew\s{1,4}(Blob|File)\s{0,4}\(\s{0,4}\[/ ascii wide nocase
        $give_url = /\bcreateObjectURL\s{0,4}\(/ ascii wide nocase
        $give_save = /\bmsSave(OrOpen)?Blob\s{0,4}\(/ ascii wide nocase
        $give_data = /\.href\s{0,4}=\s{0,4}["'`]data:application\// ascii wide nocase
        $save_download = /\.download\s{0,4}=|setAttribute\s{0,4}\(\s{0,4}["'`]download/ ascii wide nocase
        $save_click = /\.click\s{0,4}\(\s{0,4}\)/ ascii wide nocase
    condition:
        not (content_type == "text/plain" and filename == "") and ($script or $svg) and any of ($decode_*) and ($give_save or ($make_blob and $give_url and any of ($save_*)) or ($give_data and any of ($save_*)))
}

rule HTML_Smuggling_Encoded_Program
{
    meta:
        kind = "suspicious"
        about = "a script in HTML that holds a program, an archive or a disk image in base64"
    strings:
        $script = "<script" ascii wide nocase
        $decode = /\batob\s{0,4}\(/ ascii wide nocase
        $program = /["'`]TV[opqr][A-Za-z0-9+\/]{200}/ ascii
        $zip = /["'`]UEsDB[A-Za-z0-9+\/]{200}/ ascii
        $rar = /["'`]UmFyIR[A-Za-z0-9+\/]{200}/ ascii
        $html = "<html" ascii wide nocase
    condition:
        $script and $html and $decode and any of ($program, $zip, $rar)
}

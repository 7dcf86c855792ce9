// Office documents whose macros start by themselves and fetch or run something; objects that old equation editors run.

rule Macro_Dropper
{
    meta:
        kind = "suspicious"
        about = "a macro that starts by itself and downloads, writes or runs a program"
    strings:
        $vba_project = "_VBA_PROJECT" ascii wide nocase
        $vba_packed = "Attribut\x00e VB_" ascii
        $vba_source = "Attribute VB_" ascii
        $auto_open = /\b(Auto_?Open|Auto_?Exec|Document_?Open|Workbook_?Open|Auto_?Close|Document_?Close)\b/ ascii wide nocase
        $download = /\b(URLDownloadToFile[AW]?|MSXML2\.(Server)?XMLHTTP|WinHttp\.WinHttpRequest|Microsoft\.XMLHTTP)\b/ ascii wide nocase
        $write = "ADODB.Stream" ascii wide nocase
        $run = /\b(WScript\.Shell|Shell\.Application|ShellExecute[AW]?|Win32_Process)\b/ ascii wide nocase
        $interpreter = /\b(powershell|mshta|cscript|wscript|certutil|bitsadmin|regsvr32|rundll32)(\.exe)?\b/ ascii wide nocase
    condition:
        not (content_type == "text/plain" and filename == "") and any of ($vba_*) and $auto_open and ($download or $write or $run or $interpreter)
}

// Fits honest formulas of old Word files, too: what tells an attack stands in the formula's own octets. Hence suspicious only.
rule Equation_Editor_Object
{
    meta:
        kind = "suspicious"
        about = "an embedded object for the equation editor (CVE-2017-11882 and its kin)"
    strings:
        $rtf = "{\\rt" ascii
        $class = "Equation.3" ascii wide nocase
        $class_hex = /45\s{0,4}71\s{0,4}75\s{0,4}61\s{0,4}74\s{0,4}69\s{0,4}6f\s{0,4}6e\s{0,4}2e\s{0,4}33/ ascii nocase
        $clsid = { 02 CE 02 00 00 00 00 00 C0 00 00 00 00 00 00 46 }
        $clsid_hex = "02ce020000000000c000000000000046" ascii nocase
        $ole = { D0 CF 11 E0 A1 B1 1A E1 }
    condition:
        ($rtf at 0 and any of ($class, $class_hex, $clsid_hex)) or ($ole at 0 and any of ($class, $clsid))
}
